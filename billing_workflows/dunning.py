"""Dunning as a kind of due work: what is done, step by step, about invoices that are not paid in time.

An invoice is looked at first a day after its due_at. It is overdue then, and takes the schedule that its tenant has:
whoever changes the schedule later changes it for the invoices to come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog

from billing_workflows.doors import Doors
from infra.crash_points import crash_point
from infra.postgres import dunning as store
from infra.postgres import past_due
from infra.postgres.billing import load_subscriptions
from infra.postgres.billing_settings import load_settings
from infra.postgres.collection import request_payment
from infra.postgres.due import Due, Moment
from infra.postgres.dunning import Look
from infra.postgres.entitlement_entries import cut_entitlements
from infra.postgres.invoice_events import copy_events, event_row, state_of
from infra.postgres.invoice_lifecycle import mark_uncollectible
from infra.postgres.pool import PgConnection, Row
from infra.postgres.subscriptions import cancel_subscription
from pricing.dunning import DAY, DunningStep, blocks_at, next_step
from pricing.statements import bill_of, next_statement
from pricing.terms import read_terms
from schemas.billing import BilledSubscription
from schemas.errors import Retry
from schemas.invoicing import DunningProgress, FinalStep
from schemas.money import format_amount, from_minor
from schemas.topics import SystemEvent
from schemas.workflows import ChunkResult

log = structlog.get_logger()

POSTPONED = timedelta(days=1)  # an invoice whose step can't be taken is looked at again then


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A locked invoice, its schedule (None: its tenant had none), and what is due of it. `is_first`: it becomes
    overdue with this look."""

    row: Row
    progress: DunningProgress | None
    step: DunningStep | None
    is_first: bool


def load_dunning(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """The next page of open invoices that are to be looked at."""
    with doors.database.transaction() as connection:
        return store.load_due_dunning(connection, moment=moment, after=after, limit=limit)


def run_dunning(doors: Doors, ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Take what is due of these invoices, in one transaction, or one by one when together it can't be done.

    Safe to repeat, and to be done by two at once: what is due is read under the invoice's lock, and written with when
    it is looked at next. One that is paid by now is passed by. Raises Retry when PostgreSQL is away.
    """
    try:
        return ChunkResult(done=_run(doors, ids, moment))
    except Retry:
        raise
    except Exception as error:
        log.warning("invoices are dunned one by one", invoices=len(ids), reason=str(error))
    done = parked = 0
    for invoice_id in ids:
        try:
            done += _run(doors, [invoice_id], moment)
        except Retry:
            raise
        except Exception as error:
            log.error("an invoice can't be dunned", invoice=invoice_id, exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            with doors.database.transaction() as connection:
                store.postpone(connection, invoice_id, until=moment.now + POSTPONED, reason=reason)
            parked += 1
    return ChunkResult(done=done, parked=parked)


def _run(doors: Doors, ids: Sequence[str], moment: Moment) -> int:
    now = moment.now
    with doors.database.transaction() as connection:
        rows = store.lock_due(connection, ids, now=now)
        crash_point("dunning.locked")
        pending = store.load_pending(connection, [row["id"] for row in rows])
        store.put_off(connection, pending, until=now + POSTPONED)
        visits = _visit(connection, [row for row in rows if row["id"] not in pending], now)
        looks = [_look(connection, visit, now) for visit in visits]
        store.save_looks(connection, looks)
        events = [event for visit, look in zip(visits, looks, strict=True) for event in _events(visit, look, now)]
        copy_events(connection, events)
        crash_point("dunning.told")
        overdue = {each for visit in visits if visit.is_first for each in visit.row["subscription_ids"]}
        past_due.refresh(connection, sorted(overdue), now=now)
        _finish(connection, [visit for visit in visits if visit.step is not None and visit.step.is_final], now)
        crash_point("dunning.before_commit")
    crash_point("dunning.committed")
    return len(rows)


def _visit(connection: PgConnection, rows: Sequence[Row], now: datetime) -> list[Visit]:
    """What is due of each invoice. One that becomes overdue takes its tenant's schedule."""
    settings = load_settings(connection, {row["tenant_id"] for row in rows if row["overdue_at"] is None})
    visits: list[Visit] = []
    for row in rows:
        is_first = row["overdue_at"] is None
        if is_first:
            schedule = settings[row["tenant_id"]].dunning
            progress = None if schedule is None else DunningProgress(schedule=schedule)
        else:
            progress = msgspec.convert(row["dunning"], DunningProgress)
        step = None
        if progress is not None:
            step = next_step(progress.schedule, due_at=row["due_at"], day=progress.day, now=now, is_first=is_first)
        visits.append(Visit(row=row, progress=progress, step=step, is_first=is_first))
    return visits


def _look(connection: PgConnection, visit: Visit, now: datetime) -> Look:
    """What is behind the invoice after this look. If that is due, its payer's provider is asked for the money."""
    row, progress, step = visit.row, visit.progress, visit.step
    overdue_at = row["overdue_at"] or now
    if progress is None or step is None:
        return Look(invoice_id=row["id"], overdue_at=overdue_at, blocks_at=None, progress=None, next_at=None)
    is_attempted = step.is_retry and request_payment(connection, row, now=now) is not None
    return Look(
        invoice_id=row["id"],
        overdue_at=overdue_at,
        blocks_at=blocks_at(progress.schedule, row["due_at"]),
        progress=msgspec.structs.replace(
            progress,
            day=step.day,
            attempts=progress.attempts + is_attempted,
            reminders=progress.reminders + step.is_reminder,
        ),
        next_at=step.next_at,
    )


def _events(visit: Visit, look: Look, now: datetime) -> list[tuple[Any, ...]]:
    row, progress = visit.row, look.progress
    more = {
        "amount_remaining": format_amount(
            from_minor(row["amount_due_minor"] - row["amount_paid_minor"], row["currency"]), row["currency"]
        ),
        "due_at": row["due_at"],
        "days_overdue": (now - row["due_at"]) // DAY,
        "attempts": 0 if progress is None else progress.attempts,
        "reminders": 0 if progress is None else progress.reminders,
        "next_step_at": look.next_at,
        "final": None if progress is None else progress.schedule.final,
    }
    types = [SystemEvent.INVOICE_OVERDUE] if visit.is_first else []
    if visit.step is not None and visit.step.is_reminder:
        types.append(SystemEvent.INVOICE_PAYMENT_REMINDER)
    return [event_row(event, state_of(row), now=now, more=more) for event in types]


def _finish(connection: PgConnection, visits: Sequence[Visit], now: datetime) -> None:
    """Give these invoices up, and cancel their subscriptions if the schedule says so."""
    canceled: list[BilledSubscription] = []
    for visit in visits:
        assert visit.progress is not None
        if visit.progress.schedule.final is FinalStep.CANCEL:
            canceled += _cancel(connection, visit.row["subscription_ids"], now)
        mark_uncollectible(connection, visit.row, now=now)
    cut_entitlements(connection, canceled, at=now)


def _cancel(connection: PgConnection, subscription_ids: Sequence[str], now: datetime) -> list[BilledSubscription]:
    """Cancel those of locked subscriptions that run, as somebody would by `at: now` without proration; these. The
    closing invoice bills what was used, and tells that it is canceled."""
    canceled: list[BilledSubscription] = []
    for subscription in load_subscriptions(connection, subscription_ids):
        stops = [at for at in (subscription.cancel_at, subscription.end_at) if at is not None]
        if subscription.status in past_due.OVER or any(at <= now for at in stops):
            continue
        bill = bill_of(next_statement(read_terms(replace(subscription, cancel_at=now, cancel_proration=False))))
        cancel_subscription(
            connection,
            subscription_id=subscription.id,
            cancel_at=now,
            prorate=False,
            next_bill_at=bill.at,
            usage_due=bill.usage_due,
        )
        canceled.append(subscription)
    return canceled
