"""Billing steps saved: invoices issued beside the subscriptions' new state, in the caller's one transaction."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.crash_points import crash_point
from infra.postgres.invoice_events import copy_events
from infra.postgres.invoice_issue import NewInvoice, issue_invoices
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from pricing.consolidation import Group, consolidate, group_of_step, together
from schemas.billing import BillingStep, StatementKey
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

_CLOSED_EVENTS = {"canceled": SystemEvent.SUBSCRIPTION_CANCELED, "ended": SystemEvent.SUBSCRIPTION_ENDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What became of a batch of steps, by subscription id.

    `clashed`: unchanged since it was read, and yet its invoice exists already: a broken invariant. Those that are
    neither saved nor clashed have been changed by someone else meanwhile: nothing was done.
    """

    saved: frozenset[str]
    clashed: frozenset[str]
    invoices: int


def save_steps(
    connection: PgConnection, steps: Sequence[BillingStep], *, now: datetime, lock: Collection[str] = ()
) -> Saved:
    """Save at most one step a subscription: its invoice, issued, the subscription's new state, system events. Invoices
    of one payer, currency and instant are one if it is invoiced so: of these steps all are saved or none.

    All of it is the caller's one transaction. Locks are taken in one order, subscriptions by id (those of the steps,
    and those that the caller is to change beside), customers by id, tenants' sequences by id, so callers wait for each
    other and never in a circle.
    """
    locked = _whole_groups(steps, _lock_unchanged(connection, steps, lock))
    clashed = _invoiced_already(connection, locked)
    saved = [step for step in locked if step.subscription.id not in clashed]
    crash_point("billing.locked")
    billed = together(step for step in saved if step.invoice is not None)
    issued = issue_invoices(connection, [_new_invoice(part) for part in billed], now=now)
    _update_subscriptions(connection, saved)
    copy_events(connection, [_closed_event(step, now) for step in saved if step.status in _CLOSED_EVENTS])
    crash_point("billing.before_commit")
    return Saved(
        saved=frozenset(step.subscription.id for step in saved), clashed=frozenset(clashed), invoices=len(issued)
    )


def _new_invoice(steps: Sequence[BillingStep]) -> NewInvoice:
    """The invoice of these steps; that of one alone is its subscription's."""
    subscription = steps[0].subscription
    invoices = [(step.subscription.id, step.invoice) for step in steps if step.invoice is not None]
    return NewInvoice(
        tenant_id=subscription.tenant_id,
        customer_id=subscription.payer_id or subscription.customer_id,
        external_id=subscription.payer_external_id or subscription.external_id,
        subscription_id=subscription.id if len(invoices) == 1 else None,
        invoice=invoices[0][1] if len(invoices) == 1 else consolidate(invoices),
        as_of=min((step.as_of for step in steps if step.as_of is not None), default=None),
        statements=[
            StatementKey(subscription_id=subscription_id, period_end=invoice.period.end, kind=invoice.kind)
            for subscription_id, invoice in invoices
        ],
    )


def _lock_unchanged(connection: PgConnection, steps: Sequence[BillingStep], also: Collection[str]) -> list[BillingStep]:
    """Those whose row is as it was read, locked until the transaction ends."""
    rows = connection.execute(
        "SELECT id, xmin::text AS row_version FROM subscriptions WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        ([*(step.subscription.id for step in steps), *also],),
    )
    versions = {row["id"]: row["row_version"] for row in rows}
    return [step for step in steps if versions.get(step.subscription.id) == step.subscription.row_version]


def _whole_groups(steps: Sequence[BillingStep], locked: Sequence[BillingStep]) -> list[BillingStep]:
    """The locked ones whose invoice is that of no step that could not be locked."""
    ids = {step.subscription.id for step in locked}
    torn: set[Group | None] = {group_of_step(step) for step in steps if step.subscription.id not in ids} - {None}
    return [step for step in locked if group_of_step(step) not in torn]


def _invoiced_already(connection: PgConnection, steps: Sequence[BillingStep]) -> set[str]:
    keys = [(step.subscription.id, step.invoice) for step in steps if step.invoice is not None]
    rows = connection.execute(
        "SELECT subscription_id FROM invoice_statements s"
        " JOIN unnest(%s::text[], %s::timestamptz[], %s::text[]) AS wanted (id, until, reason)"
        " ON s.subscription_id = wanted.id AND s.period_end = wanted.until AND s.kind = wanted.reason",
        (
            [subscription_id for subscription_id, _ in keys],
            [invoice.period.end for _, invoice in keys],
            [str(invoice.kind) for _, invoice in keys],
        ),
    )
    return {row["subscription_id"] for row in rows}


def _update_subscriptions(connection: PgConnection, steps: Sequence[BillingStep]) -> None:
    connection.execute(
        "UPDATE subscriptions AS s SET billed_until = new.billed_until, next_bill_at = new.next_bill_at,"
        " usage_due = new.usage_due, late_check_at = new.late_check_at, status = coalesce(new.status, s.status),"
        " discounts = coalesce(new.discounts, s.discounts), billed_seqs = coalesce(new.billed_seqs, s.billed_seqs),"
        " canceled_at = CASE WHEN new.status = 'canceled' THEN coalesce(s.canceled_at, s.cancel_at)"
        " ELSE s.canceled_at END"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::boolean[], %s::timestamptz[], %s::text[],"
        " %s::jsonb[], %s::jsonb[])"
        " AS new (id, billed_until, next_bill_at, usage_due, late_check_at, status, discounts, billed_seqs)"
        " WHERE s.id = new.id",
        (
            [step.subscription.id for step in steps],
            [step.billed_until for step in steps],
            [step.next_bill_at for step in steps],
            [step.usage_due for step in steps],
            [step.late_check_at for step in steps],
            [step.status for step in steps],
            [None if step.discounts is None else jsonb(step.discounts) for step in steps],
            [None if step.billed_seqs is None else jsonb(dict(step.billed_seqs)) for step in steps],
        ),
    )


def _closed_event(step: BillingStep, now: datetime) -> tuple[Any, ...]:
    assert step.status is not None
    subscription = step.subscription
    data = {"id": subscription.id, "customer": subscription.external_id, "status": step.status}
    event = _CLOSED_EVENTS[step.status]
    return (new_id(Prefix.SYSTEM_EVENT), subscription.tenant_id, event, subscription.id, jsonb(data), now)
