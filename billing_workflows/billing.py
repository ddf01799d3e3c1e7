"""Billing a chunk of due subscriptions: terms → statement → usage, proven → price → one transaction.

Plain functions over open doors; `now` is an argument, so any past period is billed in a plain test. What can't be
billed parks its own account, with the reason, and the rest of the chunk goes on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from billing_workflows.accounts import Account, Round, price_accounts, reason_of
from billing_workflows.doors import Doors, complete_usage_until, load_stored
from infra.crash_points import crash_point
from infra.postgres.billing import load_due, load_due_together, load_meters, load_subscriptions, park
from infra.postgres.billing_steps import save_steps
from infra.postgres.due import Due, Moment
from infra.postgres.meters import load_unbuilt
from infra.postgres.pool import PgConnection
from infra.postgres.shards import usage_as_of
from pricing.consolidation import MAX_TOGETHER, group_of, group_of_step
from pricing.statements import Statement, next_statement
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, BillingStep
from schemas.errors import Retry
from schemas.workflows import ChunkResult

log = structlog.get_logger()

MAX_ROUNDS = 36  # statements of one subscription in one activity: three years of months; the next sweep goes on
MAX_ROUND = 2_000  # subscriptions of consolidated invoices in one round, and at least one invoice


def load_due_bills(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Due subscriptions. Those whose usage is not complete yet are passed by; that of a test clock's customers is
    complete before the clock moves."""
    with doors.database.transaction() as connection:
        as_of = usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions)
        usage_until = complete_usage_until(doors, as_of, moment)
        return load_due(connection, moment=moment, usage_until=usage_until, after=after, limit=limit)


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
        stored = load_stored(doors, connection)
        loaded = _due(load_subscriptions(connection, subscription_ids), now)
        subscriptions, later = _with_siblings(connection, loaded, now)
        meters = load_meters(connection, [subscription.tenant_id for subscription in subscriptions.values()])
        unbuilt = load_unbuilt(connection, meter_nos=sorted({meter.meter_no for meter in meters.values()}))
    found = Round()
    complete_until = complete_usage_until(doors, stored.as_of, moment)
    accounts = _prepare(subscriptions.values(), complete_until, now, found)
    price_accounts(doors, accounts, meters, unbuilt, stored, found, now)
    _hold_back(subscriptions, found)
    crash_point("billing.priced")
    result, again = _save(doors, subscriptions, found, now, complete_until)
    return result, [*again, *later] if result.statements else again


def _due(loaded: Sequence[BilledSubscription], now: datetime) -> dict[str, BilledSubscription]:
    return {found.id: found for found in loaded if found.next_bill_at is not None and found.next_bill_at <= now}


def _with_siblings(
    connection: PgConnection, loaded: Mapping[str, BilledSubscription], now: datetime
) -> tuple[dict[str, BilledSubscription], list[str]]:
    """What is to be billed in this round, and what in a later one.

    Of payers who get one invoice, whatever is due first goes together, also subscriptions that another chunk has: who
    is the first to save them bills them, and the other finds them changed.
    """
    payers = {each.payer_id for each in loaded.values() if each.is_consolidated and each.payer_id is not None}
    if not payers:
        return dict(loaded), []
    wanted: list[str] = []
    for ids in load_due_together(connection, sorted(payers), now=now, limit=MAX_TOGETHER).values():
        if wanted and len(wanted) + len(ids) > MAX_ROUND:
            break
        wanted += ids
    alone = {each.id: each for each in loaded.values() if not each.is_consolidated}
    found = _due(load_subscriptions(connection, wanted), now)
    return alone | found, [each for each in loaded if each not in alone and each not in found]


def _hold_back(subscriptions: Mapping[str, BilledSubscription], found: Round) -> None:
    """Let what stands on one invoice with something that waits wait too. What is parked is not waited for."""
    waiting = {
        group_of(subscription, subscription.next_bill_at)
        for subscription in map(subscriptions.__getitem__, found.waiting)
        if subscription.next_bill_at is not None
    } - {None}
    if waiting:
        held = {step.subscription.id for step in found.steps if group_of_step(step) in waiting}
        found.waiting |= held
        found.steps = [step for step in found.steps if step.subscription.id not in held]


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
            found.parked[subscription.id] = reason_of(subscription, error)
            continue
        if statement is None or statement.at > now:
            found.steps.append(_reschedule(subscription, statement))
        elif statement.has_usage and statement.at > complete_until:
            found.waiting.add(subscription.id)
        else:
            accounts.append(Account(subscription=subscription, terms=terms, statement=statement))
    return accounts


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


def _save(
    doors: Doors, subscriptions: Mapping[str, BilledSubscription], found: Round, now: datetime, complete_until: datetime
) -> tuple[ChunkResult, list[str]]:
    """What was done, and the subscriptions that can be billed again at once. Those whose usage must be waited for are
    not read again only to find that out."""
    result, saved = save_round(doors, subscriptions, found, now)
    due = [
        (step.subscription.id, step.usage_due and step.next_bill_at > complete_until)
        for step in found.steps
        if step.subscription.id in saved and step.next_bill_at is not None and step.next_bill_at <= now
    ]
    again = [subscription_id for subscription_id, waits in due if not waits]
    return replace(result, waiting=result.waiting + len(due) - len(again)), again


def save_round(
    doors: Doors, subscriptions: Mapping[str, BilledSubscription], found: Round, now: datetime
) -> tuple[ChunkResult, frozenset[str]]:
    """Save what a round has found, in one transaction; what was done, and the subscriptions whose steps are saved.

    When that can't be done, what stands on one invoice is saved for itself: of what can't be saved even so all
    subscriptions are parked, and the others are billed. Raises Retry when PostgreSQL is away.
    """
    try:
        return _save_together(doors, subscriptions, found, now)
    except Retry:
        raise
    except Exception as error:
        log.warning("a chunk is saved one by one", steps=len(found.steps), reason=str(error))
    result, saved = _save_together(doors, subscriptions, replace(found, steps=[]), now)
    for steps in _alone(found.steps):
        try:
            done, these = _save_together(doors, subscriptions, Round(steps=steps), now)
        except Retry:
            raise
        except Exception as error:
            reasons = {step.subscription.id: reason_of(step.subscription, error) for step in steps}
            done, these = _save_together(doors, subscriptions, Round(parked=reasons), now)
        result = ChunkResult(
            invoices=result.invoices + done.invoices,
            statements=result.statements + done.statements,
            parked=result.parked + done.parked,
            waiting=result.waiting,
        )
        saved |= these
    return result, saved


def _alone(steps: Sequence[BillingStep]) -> list[list[BillingStep]]:
    """Steps by what must be saved together: those of one consolidated invoice, and each other one."""
    groups: dict[object, list[BillingStep]] = {}
    for step in steps:
        groups.setdefault(group_of_step(step) or step.subscription.id, []).append(step)
    return list(groups.values())


def _save_together(
    doors: Doors, subscriptions: Mapping[str, BilledSubscription], found: Round, now: datetime
) -> tuple[ChunkResult, frozenset[str]]:
    with doors.database.transaction() as connection:
        saved = save_steps(connection, found.steps, now=now, lock=found.parked)
        reasons = found.parked | dict.fromkeys(saved.clashed, "billing.already_invoiced: the statement has an invoice")
        parked = [
            subscription_id
            for subscription_id, reason in reasons.items()
            if park(connection, subscriptions[subscription_id], reason=reason, now=now)
        ]
    crash_point("billing.committed")
    for subscription_id in parked:
        log.warning("subscription parked", subscription=subscription_id, reason=reasons[subscription_id])
    result = ChunkResult(
        invoices=saved.invoices, statements=len(saved.saved), parked=len(parked), waiting=len(found.waiting)
    )
    return result, saved.saved
