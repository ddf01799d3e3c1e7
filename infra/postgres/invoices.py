"""Invoices and their lines: saved with the subscription's new state in the caller's one transaction, and read back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.crash_points import crash_point
from infra.postgres.credits import CreditEntry, append_entries, lock_balances
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.billing import BillingStep, Invoice
from schemas.ids import Prefix, new_id
from schemas.money import EXACT, format_amount, to_minor
from schemas.topics import SystemEvent

_CLOSED_EVENTS = {"canceled": SystemEvent.SUBSCRIPTION_CANCELED, "ended": SystemEvent.SUBSCRIPTION_ENDED}

_INVOICE_SQL = """
SELECT i.id, i.number, i.status, i.kind, i.currency, i.customer_id, c.external_id, i.subscription_id, i.period_start,
       i.period_end, i.subtotal_minor, i.discount_minor, i.tax_minor, i.total_minor, i.credits_applied_minor,
       i.amount_due_minor, i.amount_paid_minor, i.as_of, i.metadata, i.created_at, i.finalized_at
FROM invoices i JOIN customers c ON c.id = i.customer_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What became of a batch of steps, by subscription id.

    `clashed`: unchanged since it was read, and yet its invoice exists already: a broken invariant. Those that are
    neither saved nor clashed have been changed by someone else meanwhile: nothing was done.
    """

    saved: frozenset[str]
    clashed: frozenset[str]
    invoices: int


def save_steps(connection: PgConnection, steps: Sequence[BillingStep], *, now: datetime) -> Saved:
    """Save at most one step a subscription: number, invoice, lines, the subscription's new state, system events.

    Each invoice is paid from its customer's credit as far as that reaches; a negative one adds to it. All of it is the
    caller's one transaction. Locks are taken in one order, subscriptions by id, customers by id, tenants' sequences by
    id, so callers wait for each other and never in a circle. Numbers are drawn only for invoices that this transaction
    inserts, so they have no gaps.
    """
    locked = _lock_unchanged(connection, steps)
    clashed = _invoiced_already(connection, locked)
    saved = [step for step in locked if step.subscription.id not in clashed]
    crash_point("billing.locked")
    invoiced = _pay_from_credit(connection, [(step, step.invoice) for step in saved if step.invoice is not None])
    numbers = _draw_numbers(connection, Counter(step.subscription.tenant_id for step, _ in invoiced))
    crash_point("billing.numbered")
    ids = [new_id(Prefix.INVOICE) for _ in invoiced]
    rows: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    for (step, invoice), invoice_id in zip(invoiced, ids, strict=True):
        tenant_id = step.subscription.tenant_id
        number = f"INV-{numbers[tenant_id]:06d}"
        numbers[tenant_id] += 1
        rows.append(_invoice_row(step, invoice, invoice_id, number, now))
        events.append(_finalized_event(step, invoice, invoice_id, number, now))
    _copy_invoices(connection, rows)
    crash_point("billing.invoices_written")
    _copy_lines(connection, [(invoice_id, invoice) for (_, invoice), invoice_id in zip(invoiced, ids, strict=True)])
    crash_point("billing.lines_written")
    append_entries(
        connection,
        [
            _credit_entry(step, invoice, invoice_id)
            for (step, invoice), invoice_id in zip(invoiced, ids, strict=True)
            if invoice.credit_change
        ],
        now=now,
    )
    crash_point("billing.credits_written")
    _update_subscriptions(connection, saved)
    events.extend(_closed_event(step, now) for step in saved if step.status in _CLOSED_EVENTS)
    _copy_events(connection, events)
    crash_point("billing.before_commit")
    return Saved(
        saved=frozenset(step.subscription.id for step in saved), clashed=frozenset(clashed), invoices=len(invoiced)
    )


def _lock_unchanged(connection: PgConnection, steps: Sequence[BillingStep]) -> list[BillingStep]:
    """Those whose row is as it was read, locked until the transaction ends."""
    rows = connection.execute(
        "SELECT id, xmin::text AS row_version FROM subscriptions WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        ([step.subscription.id for step in steps],),
    )
    versions = {row["id"]: row["row_version"] for row in rows}
    return [step for step in steps if versions.get(step.subscription.id) == step.subscription.row_version]


def _invoiced_already(connection: PgConnection, steps: Sequence[BillingStep]) -> set[str]:
    keys = [(step.subscription.id, step.invoice) for step in steps if step.invoice is not None]
    rows = connection.execute(
        "SELECT subscription_id FROM invoices i"
        " JOIN unnest(%s::text[], %s::timestamptz[], %s::text[]) AS wanted (id, until, reason)"
        " ON i.subscription_id = wanted.id AND i.period_end = wanted.until AND i.kind = wanted.reason",
        (
            [subscription_id for subscription_id, _ in keys],
            [invoice.period.end for _, invoice in keys],
            [str(invoice.kind) for _, invoice in keys],
        ),
    )
    return {row["subscription_id"] for row in rows}


def _pay_from_credit(
    connection: PgConnection, invoiced: Sequence[tuple[BillingStep, Invoice]]
) -> list[tuple[BillingStep, Invoice]]:
    """The same with what credit pays of each, in their order: an invoice may use what one before it gave."""
    concerned = {step.subscription.customer_id for step, invoice in invoiced if invoice.total}
    balances = lock_balances(connection, concerned)
    paid: list[tuple[BillingStep, Invoice]] = []
    for step, invoice in invoiced:
        place = (step.subscription.customer_id, invoice.currency)
        balance = balances.get(place, Decimal(0))
        settled = invoice.paid_from(balance)
        balances[place] = EXACT.add(balance, settled.credit_change)
        paid.append((step, settled))
    return paid


def _credit_entry(step: BillingStep, invoice: Invoice, invoice_id: str) -> CreditEntry:
    return CreditEntry(
        tenant_id=step.subscription.tenant_id,
        customer_id=step.subscription.customer_id,
        currency=invoice.currency,
        amount_minor=to_minor(invoice.credit_change, invoice.currency),
        invoice_id=invoice_id,
    )


def _draw_numbers(connection: PgConnection, wanted: Counter[str]) -> dict[str, int]:
    """By tenant, the first of as many consecutive numbers as are wanted."""
    first: dict[str, int] = {}
    for tenant_id, count in sorted(wanted.items()):
        row = connection.execute(
            "INSERT INTO invoice_sequences AS s (tenant_id, next_number) VALUES (%(tenant_id)s, 1 + %(count)s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET next_number = s.next_number + %(count)s"
            " RETURNING next_number - %(count)s AS first",
            {"tenant_id": tenant_id, "count": count},
        ).fetchone()
        assert row is not None
        first[tenant_id] = row["first"]
    return first


def _invoice_row(step: BillingStep, invoice: Invoice, invoice_id: str, number: str, now: datetime) -> tuple[Any, ...]:
    due = invoice.amount_due
    amounts = (invoice.subtotal, invoice.discount, invoice.tax, invoice.total, invoice.credits_applied, due)
    return (
        invoice_id,
        step.subscription.tenant_id,
        step.subscription.customer_id,
        step.subscription.id,
        invoice.kind,
        invoice.period.start,
        invoice.period.end,
        number,
        "open" if due > 0 else "paid",  # nothing to pay is paid
        invoice.currency,
        *(to_minor(amount, invoice.currency) for amount in amounts),
        step.as_of,
        now,
        now,
    )


def _copy_invoices(connection: PgConnection, rows: Sequence[tuple[Any, ...]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoices (id, tenant_id, customer_id, subscription_id, kind, period_start, period_end, number,"
            " status, currency, subtotal_minor, discount_minor, tax_minor, total_minor, credits_applied_minor,"
            " amount_due_minor, as_of, created_at, finalized_at) FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def _copy_lines(connection: PgConnection, invoices: Sequence[tuple[str, Invoice]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoice_lines (invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor,"
            " period_start, period_end, meter_no, price, explain) FROM STDIN"
        ) as copy,
    ):
        for invoice_id, invoice in invoices:
            for position, line in enumerate(invoice.lines):
                copy.write_row(
                    (
                        invoice_id,
                        position,
                        line.key,
                        line.description,
                        line.quantity,
                        line.unit_amount,
                        line.exact,
                        to_minor(line.amount, invoice.currency),
                        line.period.start,
                        line.period.end,
                        line.meter_no,
                        jsonb(line.price),
                        jsonb(line.explain),
                    )
                )


def _update_subscriptions(connection: PgConnection, steps: Sequence[BillingStep]) -> None:
    connection.execute(
        "UPDATE subscriptions AS s SET billed_until = new.billed_until, next_bill_at = new.next_bill_at,"
        " usage_due = new.usage_due, status = coalesce(new.status, s.status),"
        " canceled_at = CASE WHEN new.status = 'canceled' THEN coalesce(s.canceled_at, s.cancel_at)"
        " ELSE s.canceled_at END"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::boolean[], %s::text[])"
        " AS new (id, billed_until, next_bill_at, usage_due, status) WHERE s.id = new.id",
        (
            [step.subscription.id for step in steps],
            [step.billed_until for step in steps],
            [step.next_bill_at for step in steps],
            [step.usage_due for step in steps],
            [step.status for step in steps],
        ),
    )


def _finalized_event(
    step: BillingStep, invoice: Invoice, invoice_id: str, number: str, now: datetime
) -> tuple[Any, ...]:
    data = {
        "id": invoice_id,
        "number": number,
        "customer": step.subscription.external_id,
        "subscription": step.subscription.id,
        "currency": invoice.currency,
        "total": format_amount(invoice.total, invoice.currency),
        "amount_due": format_amount(invoice.amount_due, invoice.currency),
    }
    return (
        new_id(Prefix.SYSTEM_EVENT),
        step.subscription.tenant_id,
        SystemEvent.INVOICE_FINALIZED,
        invoice_id,
        jsonb(data),
        now,
    )


def _closed_event(step: BillingStep, now: datetime) -> tuple[Any, ...]:
    assert step.status is not None
    subscription = step.subscription
    data = {"id": subscription.id, "customer": subscription.external_id, "status": step.status}
    event = _CLOSED_EVENTS[step.status]
    return (new_id(Prefix.SYSTEM_EVENT), subscription.tenant_id, event, subscription.id, jsonb(data), now)


def _copy_events(connection: PgConnection, events: Sequence[tuple[Any, ...]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY outbox (id, tenant_id, type, object_id, data, created_at) FROM STDIN") as copy,
    ):
        for event in events:
            copy.write_row(event)


def list_invoices(
    connection: PgConnection,
    *,
    tenant_id: str,
    customer_id: str | None = None,
    subscription_id: str | None = None,
    status: str | None = None,
    before_id: str | None = None,
    limit: int,
) -> list[Row]:
    """The tenant's invoices, newest first, from the one before `before_id` on, those that the filters let through."""
    return connection.execute(
        _INVOICE_SQL + " WHERE i.tenant_id = %(tenant_id)s"
        " AND (%(customer_id)s::text IS NULL OR i.customer_id = %(customer_id)s)"
        " AND (%(subscription_id)s::text IS NULL OR i.subscription_id = %(subscription_id)s)"
        " AND (%(status)s::text IS NULL OR i.status = %(status)s)"
        " AND (%(before_id)s::text IS NULL OR i.id < %(before_id)s) ORDER BY i.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "subscription_id": subscription_id,
            "status": status,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def load_invoice(connection: PgConnection, *, tenant_id: str, id_or_number: str) -> Row | None:
    """One invoice of the tenant, by its id or its number."""
    return connection.execute(
        _INVOICE_SQL + " WHERE i.tenant_id = %s AND (i.id = %s OR i.number = %s)",
        (tenant_id, id_or_number, id_or_number),
    ).fetchone()


def load_lines(connection: PgConnection, invoice_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The lines of invoices in their order, by invoice id."""
    rows = connection.execute(
        "SELECT invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor, period_start,"
        " period_end, meter_no, price, explain FROM invoice_lines WHERE invoice_id = ANY(%s)"
        " ORDER BY invoice_id, position",
        (list(invoice_ids),),
    )
    lines: dict[str, list[Row]] = {invoice_id: [] for invoice_id in invoice_ids}
    for row in rows:
        lines[row["invoice_id"]].append(row)
    return lines
