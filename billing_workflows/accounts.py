"""Accounts that are due: their usage measured, proven and priced, all of a chunk at once.

What can't be billed is named with its reason, to be parked, and the rest of the chunk goes on.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from billing_workflows.doors import Doors, Stored
from infra.clickhouse.metering import Measured, batches, measure
from infra.late_usage import load_late
from infra.postgres.billed_usage import load_begun, load_usage_billed
from pricing.adjustments import adjustment_needs, watch, without_open
from pricing.billing import apply_discounts, price_statement, usage_needs
from pricing.late_checks import next_late_check
from pricing.statements import NextBill, Statement, next_bill
from pricing.terms import Terms
from schemas.billing import BilledSubscription, BilledUsage, BillingStep, InvoiceKind, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import InvariantBroken, MeterlineError, Retry
from schemas.money import from_minor

log = structlog.get_logger()

MAX_REASON = 500  # characters of a parked account's reason
NOT_STARTED = frozenset({"draft", "trialing"})  # of a subscription that waits for its first statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One due subscription with its statement; `late` is what was billed before and is measured again."""

    subscription: BilledSubscription
    terms: Terms
    statement: Statement
    late: list[BilledUsage] = field(default_factory=list[BilledUsage])


@dataclass(slots=True, kw_only=True)
class Round:
    """One pass over a chunk. `parked` has the reason of each; `waiting` are not ready; `steps` are, to be saved."""

    steps: list[BillingStep] = field(default_factory=list[BillingStep])
    parked: dict[str, str] = field(default_factory=dict[str, str])
    waiting: set[str] = field(default_factory=set[str])


def price_accounts(
    doors: Doors,
    accounts: Sequence[Account],
    meters: Mapping[tuple[str, str], MeterEntry],
    unbuilt: Set[int],
    stored: Stored,
    found: Round,
    now: datetime,
) -> None:
    """Measure, prove and price all accounts; their steps and reasons to be parked go to `found`.

    One that needs a meter whose past is still being counted waits.
    """
    needs: dict[str, list[UsageNeed]] = {}
    for account in accounts:
        subscription = account.subscription
        try:
            wanted = usage_needs(subscription, account.statement, meters)
            if any(need.meter.meter_no in unbuilt for need in wanted):
                found.waiting.add(subscription.id)
            else:
                needs[subscription.id] = wanted
        except MeterlineError as error:
            found.parked[subscription.id] = reason_of(subscription, error)
    ready = {account.subscription.id: account for account in accounts if account.subscription.id in needs}
    _add_late(doors, ready, needs, meters, unbuilt, stored, found)
    for batch in batches(needs):
        _price_batch(doors, [ready[subscription_id] for subscription_id in batch], needs, stored, found, now)


def _add_late(
    doors: Doors,
    accounts: Mapping[str, Account],
    needs: dict[str, list[UsageNeed]],
    meters: Mapping[tuple[str, str], MeterEntry],
    unbuilt: Set[int],
    stored: Stored,
    found: Round,
) -> None:
    """Let what was billed and has changed since be measured again. What is of a meter that is counted anew waits."""
    looked_at = (watch(each.subscription, each.terms, each.statement, meters) for each in accounts.values())
    watched = [each for each in looked_at if each is not None]
    by_no = {meter.meter_no: meter for each in watched for meter in each.meters}
    for subscription_id, billed in load_late(doors.database, doors.clickhouse, watched, stored.seqs).items():
        account = accounts[subscription_id]
        try:
            account.late.extend(without_open(billed, account.terms, account.statement))
            if any(each.meter_no in unbuilt for each in account.late):
                found.waiting.add(subscription_id)
                del needs[subscription_id]
                continue
            needs[subscription_id] += adjustment_needs(account.subscription, account.late, by_no)
        except MeterlineError as error:
            found.parked[subscription_id] = reason_of(account.subscription, error)
            del needs[subscription_id]


def _price_batch(
    doors: Doors,
    accounts: Sequence[Account],
    needs: Mapping[str, Sequence[UsageNeed]],
    stored: Stored,
    found: Round,
    now: datetime,
) -> None:
    """Accounts whose usage may be held at once; see `infra.clickhouse.metering.batches`."""
    measured = _measure(doors, accounts, needs, stored, found)
    before = _load_before(doors, accounts)
    for account in accounts:
        subscription = account.subscription
        if subscription.id in found.parked:
            continue
        try:
            if subscription.id in measured.broken:
                raise InvariantBroken("billing.windows_differ", measured.broken[subscription.id])
            found.steps.append(_step(account, measured.of(subscription.id), before, stored, now))
        except Exception as error:
            found.parked[subscription.id] = reason_of(subscription, error)


def _measure(
    doors: Doors,
    accounts: Sequence[Account],
    needs: Mapping[str, Sequence[UsageNeed]],
    stored: Stored,
    found: Round,
) -> Measured:
    """The usage of all accounts. When together they can't be measured each is measured alone: what can't be measured
    even so is parked, and holds up nobody else's invoice. A store that is away is nobody's fault: that raises.
    """
    together = [need for account in accounts for need in needs[account.subscription.id]]
    try:
        return measure(doors.clickhouse, together, stored.seqs)
    except Retry:
        raise
    except MeterlineError as error:
        log.warning("a chunk is measured one by one", accounts=len(accounts), reason=str(error))
    measured = Measured()
    for account in accounts:
        subscription = account.subscription
        try:
            alone = measure(doors.clickhouse, needs[subscription.id], stored.seqs)
        except Retry:
            raise
        except MeterlineError as error:
            found.parked[subscription.id] = reason_of(subscription, error)
        else:
            measured.usage |= alone.usage
            measured.broken |= alone.broken
    return measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What invoices have billed before, by subscription: of the period of a commitment that spans statements, in minor
    units; and of the periods of the statement's own usage lines."""

    committed: Mapping[str, int]
    begun: Mapping[str, Sequence[BilledUsage]]


def _load_before(doors: Doors, accounts: Sequence[Account]) -> Before:
    committed = [
        (account.subscription.id, due.period)
        for account in accounts
        if (due := account.statement.commitment) is not None and due.spans_statements
    ]
    starts = {
        account.subscription.id: min(line.period.start for line in account.statement.lines if line.is_usage)
        for account in accounts
        if account.statement.has_usage
    }
    with doors.database.transaction() as connection:
        return Before(committed=load_usage_billed(connection, committed), begun=load_begun(connection, starts))


def _step(
    account: Account, usage: Mapping[str, MeteredUsage], before: Before, stored: Stored, now: datetime
) -> BillingStep:
    subscription, terms, statement = account.subscription, account.terms, account.statement
    is_late = statement.kind is InvoiceKind.ADJUSTMENT
    following = NextBill(at=None, usage_due=False) if is_late else next_bill(terms, statement)
    has_usage = statement.has_usage or bool(subscription.billed_seqs)
    invoice = None
    if account.late or not statement.is_empty:
        invoice = price_statement(
            terms,
            statement,
            usage,
            usage_billed=from_minor(before.committed.get(subscription.id, 0), terms.currency),
            late=account.late,
            progress=before.begun.get(subscription.id, ()),
        )
    return BillingStep(
        subscription=subscription,
        invoice=None if invoice is None or not invoice.lines else invoice,
        billed_until=subscription.billed_until if is_late else statement.at,
        next_bill_at=following.at,
        usage_due=following.usage_due,
        status=_status_after(account),
        as_of=stored.as_of if statement.has_usage or account.late else None,
        discounts=apply_discounts(subscription, terms, invoice) if invoice is not None and invoice.discount else None,
        billed_seqs=stored.seqs if has_usage else None,
        late_check_at=_late_check(account, now) if has_usage else None,
    )


def _status_after(account: Account) -> str | None:
    """What the statement makes of the subscription; None: as before."""
    if not account.statement.is_closing:
        return "active" if account.subscription.status in NOT_STARTED else None
    terms = account.terms
    canceled = terms.cancel_at is not None and terms.cancel_at == terms.stop_at
    return "canceled" if canceled else "ended"


def _late_check(account: Account, now: datetime) -> datetime | None:
    """When usage that comes later is looked for, if this is the subscription's last statement or comes after it."""
    statement, closed_at = account.statement, account.subscription.billed_until
    if statement.is_closing:
        return next_late_check(statement.at, statement.at)
    if statement.kind is InvoiceKind.ADJUSTMENT and closed_at is not None:
        return next_late_check(closed_at, now)
    return None


def reason_of(subscription: BilledSubscription, error: Exception) -> str:
    """Why an account is parked, for its row; an error that is not ours goes to the log with its trace as well."""
    if isinstance(error, MeterlineError):
        return str(error)[:MAX_REASON]
    log.error("billing failed", subscription=subscription.id, exc_info=error)
    return f"billing.failed: {type(error).__name__}: {error}"[:MAX_REASON]
