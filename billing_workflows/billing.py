"""Billing a chunk of due subscriptions: terms → statement → usage, proven → price → one transaction.

Plain functions over open doors; `now` is an argument, so any past period is billed in a plain test. What can't be
billed parks its own account, with the reason, and the rest of the chunk goes on.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from infra.clickhouse.client import Client
from infra.clickhouse.metering import Measured, batches, measure
from infra.crash_points import crash_point
from infra.late_usage import load_late
from infra.postgres.billed_usage import load_begun, load_usage_billed
from infra.postgres.billing import load_due, load_meters, load_stored_seqs, load_subscriptions, park
from infra.postgres.billing_steps import save_steps
from infra.postgres.due import Due, Moment
from infra.postgres.meters import load_unbuilt
from infra.postgres.pool import Database
from infra.postgres.shards import usage_as_of
from pricing.adjustments import adjustment_needs, watch, without_open
from pricing.billing import apply_discounts, price_statement, usage_needs
from pricing.statements import Statement, next_bill, next_statement
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription, BilledUsage, BillingStep, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import InvariantBroken, MeterlineError, Retry
from schemas.money import from_minor
from schemas.workflows import ChunkResult

log = structlog.get_logger()

MAX_ROUNDS = 36  # statements of one subscription in one activity: three years of months; the next sweep goes on
MAX_REASON = 500  # characters of a parked account's reason
NOT_STARTED = frozenset({"draft", "trialing"})  # of a subscription that waits for its first statement
NEVER = datetime.min.replace(tzinfo=UTC)
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What billing speaks to, and its settings. `grace`: how long a period may still get events after its end."""

    database: Database
    clickhouse: Client
    grace: timedelta
    chunk_size: int
    events_topic: str
    events_partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How far usage is complete, read before any usage is: `as_of` None before the first batch of every partition."""

    as_of: datetime | None
    seqs: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One due subscription with its statement; `late` is what was billed before and is measured again."""

    subscription: BilledSubscription
    terms: Terms
    statement: Statement
    late: list[BilledUsage] = field(default_factory=list[BilledUsage])


@dataclass(slots=True, kw_only=True)
class Round:
    """One pass over a chunk. `parked` has the reason of each; `steps` are ready to be saved."""

    steps: list[BillingStep] = field(default_factory=list[BillingStep])
    parked: dict[str, str] = field(default_factory=dict[str, str])
    waiting: int = 0


def load_due_bills(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Due subscriptions. Those whose usage is not complete yet are passed by; that of a test clock's customers is
    complete before the clock moves."""
    with doors.database.transaction() as connection:
        as_of = usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions)
        usage_until = complete_usage_until(doors, as_of, moment)
        return load_due(connection, moment=moment, usage_until=usage_until, after=after, limit=limit)


def complete_usage_until(doors: Doors, as_of: datetime | None, moment: Moment) -> datetime:
    """Before which instant the usage of a period must end to be complete."""
    if moment.clock_id is not None:
        return FOREVER
    return NEVER if as_of is None else as_of - doors.grace


def bill_chunk(doors: Doors, subscription_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Bill everything of these subscriptions that is due at `moment.now`: a backdated one has several statements.

    Safe to repeat at any time, by several workers at once: a statement is saved only over the very row it was computed
    from. Raises what the stores raise; then at most the rounds before have been saved.
    """
    result = ChunkResult()
    left = list(subscription_ids)
    for _ in range(MAX_ROUNDS):
        done, left = _bill_round(doors, left, moment)
        result = ChunkResult(
            invoices=result.invoices + done.invoices,
            statements=result.statements + done.statements,
            parked=result.parked + done.parked,
            waiting=result.waiting + done.waiting,
        )
        if not left:
            break
    return result


def _bill_round(doors: Doors, subscription_ids: Sequence[str], moment: Moment) -> tuple[ChunkResult, list[str]]:
    """One statement of each subscription; what was done, and the subscriptions that are due again."""
    now = moment.now
    with doors.database.transaction() as connection:
        stored = Stored(
            as_of=usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions),
            seqs=load_stored_seqs(connection),
        )
        loaded = load_subscriptions(connection, subscription_ids)
        meters = load_meters(connection, [subscription.tenant_id for subscription in loaded])
        unbuilt = load_unbuilt(connection, meter_nos=sorted({meter.meter_no for meter in meters.values()}))
    subscriptions = {
        found.id: found for found in loaded if found.next_bill_at is not None and found.next_bill_at <= now
    }
    found = Round()
    accounts = _prepare(subscriptions.values(), complete_usage_until(doors, stored.as_of, moment), now, found)
    _price(doors, accounts, meters, unbuilt, stored, found)
    crash_point("billing.priced")
    return _save(doors, subscriptions, found, now)


def _prepare(
    subscriptions: Collection[BilledSubscription], complete_until: datetime, now: datetime, found: Round
) -> list[Account]:
    """The accounts that can be billed now; the others are noted in `found`."""
    accounts: list[Account] = []
    for subscription in subscriptions:
        try:
            terms = read_terms(subscription)
            statement = next_statement(terms)
        except Exception as error:
            found.parked[subscription.id] = _reason(subscription, error)
            continue
        if statement is None or statement.at > now:
            found.steps.append(_reschedule(subscription, statement))
        elif statement.has_usage and statement.at > complete_until:
            found.waiting += 1
        else:
            accounts.append(Account(subscription=subscription, terms=terms, statement=statement))
    return accounts


def _price(
    doors: Doors,
    accounts: Sequence[Account],
    meters: Mapping[tuple[str, str], MeterEntry],
    unbuilt: Set[int],
    stored: Stored,
    found: Round,
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
                found.waiting += 1
            else:
                needs[subscription.id] = wanted
        except MeterlineError as error:
            found.parked[subscription.id] = _reason(subscription, error)
    ready = {account.subscription.id: account for account in accounts if account.subscription.id in needs}
    _add_late(doors, ready, needs, meters, unbuilt, stored, found)
    for batch in batches(needs):
        _price_batch(doors, [ready[subscription_id] for subscription_id in batch], needs, stored, found)


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
                found.waiting += 1
                del needs[subscription_id]
                continue
            needs[subscription_id] += adjustment_needs(account.subscription, account.late, by_no)
        except MeterlineError as error:
            found.parked[subscription_id] = _reason(account.subscription, error)
            del needs[subscription_id]


def _price_batch(
    doors: Doors,
    accounts: Sequence[Account],
    needs: Mapping[str, Sequence[UsageNeed]],
    stored: Stored,
    found: Round,
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
            found.steps.append(_step(account, measured.of(subscription.id), before, stored))
        except Exception as error:
            found.parked[subscription.id] = _reason(subscription, error)


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
            found.parked[subscription.id] = _reason(subscription, error)
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


def _step(account: Account, usage: Mapping[str, MeteredUsage], before: Before, stored: Stored) -> BillingStep:
    subscription, terms, statement = account.subscription, account.terms, account.statement
    following = next_bill(terms, statement)
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
        billed_until=statement.at,
        next_bill_at=following.at,
        usage_due=following.usage_due,
        status=_status_after(account),
        as_of=stored.as_of if statement.has_usage or account.late else None,
        discounts=apply_discounts(subscription, terms, invoice) if invoice is not None and invoice.discount else None,
        billed_seqs=stored.seqs if statement.has_usage or subscription.billed_seqs else None,
    )


def _status_after(account: Account) -> str | None:
    """What the statement makes of the subscription; None: as before."""
    if not account.statement.is_closing:
        return "active" if account.subscription.status in NOT_STARTED else None
    terms = account.terms
    canceled = terms.cancel_at is not None and terms.cancel_at == terms.stop_at
    return "canceled" if canceled else "ended"


def _reschedule(subscription: BilledSubscription, statement: Statement | None) -> BillingStep:
    """The row said that something is due, its terms say otherwise: correct the row, or it would come up for ever."""
    return BillingStep(
        subscription=subscription,
        invoice=None,
        billed_until=subscription.billed_until,
        next_bill_at=None if statement is None else statement.at,
        usage_due=statement is not None and statement.has_usage,
        status=None,
        as_of=None,
        late_check_at=subscription.late_check_at,
    )


def _reason(subscription: BilledSubscription, error: Exception) -> str:
    """Why an account is parked, for its row; an error that is not ours goes to the log with its trace as well."""
    if isinstance(error, MeterlineError):
        return str(error)[:MAX_REASON]
    log.error("billing failed", subscription=subscription.id, exc_info=error)
    return f"billing.failed: {type(error).__name__}: {error}"[:MAX_REASON]


def _save(
    doors: Doors, subscriptions: Mapping[str, BilledSubscription], found: Round, now: datetime
) -> tuple[ChunkResult, list[str]]:
    with doors.database.transaction() as connection:
        saved = save_steps(connection, found.steps, now=now)
        reasons = found.parked | dict.fromkeys(saved.clashed, "billing.already_invoiced: the statement has an invoice")
        parked = [
            subscription_id
            for subscription_id, reason in reasons.items()
            if park(connection, subscriptions[subscription_id], reason=reason, now=now)
        ]
    crash_point("billing.committed")
    for subscription_id in parked:
        log.warning("subscription parked", subscription=subscription_id, reason=reasons[subscription_id])
    again = [
        step.subscription.id
        for step in found.steps
        if step.subscription.id in saved.saved and step.next_bill_at is not None and step.next_bill_at <= now
    ]
    result = ChunkResult(
        invoices=saved.invoices, statements=len(saved.saved), parked=len(parked), waiting=found.waiting
    )
    return result, again
