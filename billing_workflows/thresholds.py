"""Threshold invoices: running usage of subscriptions is looked at, and billed when it has come to their threshold."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from billing_workflows.doors import Doors, Stored, complete_usage_until
from infra.clickhouse.metering import Measured, measure
from infra.postgres.billed_usage import load_begun
from infra.postgres.billing import load_meters, load_stored_seqs, load_subscriptions
from infra.postgres.billing_steps import save_steps
from infra.postgres.due import Due, Moment
from infra.postgres.meters import load_unbuilt
from infra.postgres.shards import usage_as_of
from infra.postgres.thresholds import load_due_thresholds, postpone_checks
from pricing.billing import apply_discounts, price_statement, usage_needs
from pricing.statements import Statement, next_statement
from pricing.terms import Terms, read_terms
from pricing.thresholds import statement_so_far
from schemas.billing import BilledSubscription, BilledUsage, BillingStep, UsageNeed
from schemas.errors import InvariantBroken, MeterlineError, Retry
from schemas.workflows import ChunkResult

log = structlog.get_logger()

INTERVAL = timedelta(hours=1)  # between two looks at one subscription
CLOCK_INTERVAL = timedelta(days=1)  # by a test clock, which steps from look to look


def load_thresholds(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    with doors.database.transaction() as connection:
        return load_due_thresholds(connection, moment=moment, after=after, limit=limit)


def run_thresholds(doors: Doors, subscription_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Bill the running usage of those that have come to their threshold; all are looked at again after INTERVAL.

    Safe to repeat: an invoice is saved only over the very row that it was computed from, and of one instant once.
    """
    with doors.database.transaction() as connection:
        stored = Stored(
            as_of=usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions),
            seqs=load_stored_seqs(connection),
        )
        found = load_subscriptions(connection, subscription_ids)
        meters = load_meters(connection, [each.tenant_id for each in found])
        unbuilt = load_unbuilt(connection, meter_nos=sorted({meter.meter_no for meter in meters.values()}))
    at = min(moment.now, complete_usage_until(doors, stored.as_of, moment))
    steps: list[BillingStep] = []
    for subscription in found:
        try:
            terms = read_terms(subscription)
            following = next_statement(terms)
            statement = None if following is None else statement_so_far(terms, following, at)
            if statement is None:
                continue
            needs = usage_needs(subscription, statement, meters)
            if any(need.meter.meter_no in unbuilt for need in needs):
                continue
            step = _step(doors, subscription, terms, statement, needs, stored)
        except Retry:
            raise
        except MeterlineError as error:  # the statement of the period will say so again, and park it
            log.warning("running usage can't be priced", subscription=subscription.id, reason=str(error))
            continue
        if step is not None:
            steps.append(step)
    return _save(doors, subscription_ids, steps, moment)


def _step(
    doors: Doors,
    subscription: BilledSubscription,
    terms: Terms,
    statement: Statement,
    needs: Sequence[UsageNeed],
    stored: Stored,
) -> BillingStep | None:
    """The invoice of the usage so far, if it has come to the threshold."""
    measured: Measured = measure(doors.clickhouse, needs, stored.seqs)
    if subscription.id in measured.broken:
        raise InvariantBroken("billing.windows_differ", measured.broken[subscription.id])
    progress = _progress(doors, subscription, statement)
    invoice = price_statement(terms, statement, measured.of(subscription.id), progress=progress)
    threshold = subscription.invoice_threshold
    if threshold is None or invoice.subtotal < threshold:
        return None
    return BillingStep(
        subscription=subscription,
        invoice=invoice,
        billed_until=subscription.billed_until,
        next_bill_at=subscription.next_bill_at,
        usage_due=True,
        status=None,
        as_of=stored.as_of,
        discounts=apply_discounts(subscription, terms, invoice) if invoice.discount else None,
    )


def _progress(doors: Doors, subscription: BilledSubscription, statement: Statement) -> Sequence[BilledUsage]:
    start: datetime = min(line.period.start for line in statement.lines)
    with doors.database.transaction() as connection:
        return load_begun(connection, {subscription.id: start}).get(subscription.id, ())


def _save(doors: Doors, subscription_ids: Sequence[str], steps: Sequence[BillingStep], moment: Moment) -> ChunkResult:
    """Save these invoices in one transaction, or one by one when together they can't be; what can't be saved even so is
    looked at again with the others."""
    interval = INTERVAL if moment.clock_id is None else CLOCK_INTERVAL
    try:
        return _save_together(doors, subscription_ids, steps, moment, interval)
    except Retry:
        raise
    except Exception as error:
        log.warning("running usage is billed one by one", steps=len(steps), reason=str(error))
    invoices = 0
    for step in steps:
        try:
            invoices += _save_together(doors, [], [step], moment, interval).invoices
        except Retry:
            raise
        except Exception as error:
            log.error("running usage can't be billed", subscription=step.subscription.id, exc_info=error)
    looked_at = _save_together(doors, subscription_ids, [], moment, interval)
    return ChunkResult(invoices=invoices, done=looked_at.done)


def _save_together(
    doors: Doors, subscription_ids: Sequence[str], steps: Sequence[BillingStep], moment: Moment, interval: timedelta
) -> ChunkResult:
    with doors.database.transaction() as connection:
        saved = save_steps(connection, steps, now=moment.now)
        looked_at = postpone_checks(connection, subscription_ids, until=moment.now + interval)
    return ChunkResult(invoices=saved.invoices, done=looked_at)
