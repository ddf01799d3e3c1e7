"""Usage that came after a subscription's last statement: looked for, and billed or credited by an invoice."""

from collections.abc import Sequence
from datetime import timedelta

from billing_workflows.accounts import Account, Round, price_accounts, reason_of
from billing_workflows.billing import save_round
from billing_workflows.doors import Doors, load_stored
from infra.postgres.billing import load_meters, load_subscriptions
from infra.postgres.due import Due, Moment
from infra.postgres.late_checks import load_due_late_checks, postpone_late_checks
from infra.postgres.meters import load_unbuilt
from pricing.late_checks import late_statement, late_terms
from pricing.terms import read_terms
from schemas.errors import MeterlineError
from schemas.workflows import ChunkResult

POSTPONED = timedelta(hours=1)  # what waits for a meter that is counted anew is looked at again then


def load_late_checks(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    with doors.database.transaction() as connection:
        return load_due_late_checks(connection, moment=moment, after=after, limit=limit)


def run_late_checks(doors: Doors, subscription_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Bill by difference what has changed of these subscriptions since their last statement, or the look before.

    Safe to repeat, and to be done by two at once: what was found, how far one has looked and when one looks again are
    saved in one transaction, over the very row that it was computed from. What can't be billed is parked.
    """
    now = moment.now
    with doors.database.transaction() as connection:
        stored = load_stored(doors, connection)
        loaded = load_subscriptions(connection, subscription_ids)
        meters = load_meters(connection, [each.tenant_id for each in loaded])
        unbuilt = load_unbuilt(connection, meter_nos=sorted({meter.meter_no for meter in meters.values()}))
    due = {each.id: each for each in loaded if each.late_check_at is not None and each.late_check_at <= now}
    found = Round()
    accounts: list[Account] = []
    for subscription in due.values():
        statement = late_statement(subscription)
        if statement is None:
            continue
        try:
            terms = late_terms(read_terms(subscription))
        except MeterlineError as error:
            found.parked[subscription.id] = reason_of(subscription, error)
        else:
            accounts.append(Account(subscription=subscription, terms=terms, statement=statement))
    price_accounts(doors, accounts, meters, unbuilt, stored, found, now)
    result, _ = save_round(doors, due, found, now)
    if found.waiting:
        with doors.database.transaction() as connection:
            postpone_late_checks(connection, sorted(found.waiting), until=now + POSTPONED)
    return ChunkResult(invoices=result.invoices, done=result.statements, parked=result.parked, waiting=result.waiting)
