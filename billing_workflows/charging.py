"""Charging payments, and paying refunds back, as kinds of due work.

No transaction is open while a provider is asked. Killed before the question: the attempt is counted, and the next one
looks first whether something was made. Killed after it: the same look finds it. The key is the payment's id, so that
two who ask at once charge once. What stays unknown is asked again, sooner at first, then each hour.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import repeat

import structlog

from billing_workflows.billing import Doors
from infra.crash_points import crash_point
from infra.payments import stripe_api
from infra.payments.providers import ANSWER_SECONDS, KEY_HOURS, Account, Outcome, Provider, Result
from infra.postgres import asked
from infra.postgres.charges import note_outcome
from infra.postgres.due import Due, Moment
from infra.postgres.payment_providers import load_provider
from infra.postgres.pool import PgConnection, Row
from infra.postgres.refunds import load_refund, note_refund
from schemas.workflows import ChunkResult

log = structlog.get_logger()

MAX_ASKED = 16  # payments or refunds of a chunk: when nobody answers it takes a minute, far less than an activity may
ASKED_AT_ONCE = 8
CLOCK_ANSWER_SECONDS = 5  # by a test clock, whose advance waits; what is not known then is asked after later

NOT_CONNECTED = Outcome(result=Result.FAILED, failure_code="provider_not_connected")


def load_collections(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """The next page of payments that are to be charged, or asked after."""
    with doors.database.transaction() as connection:
        return asked.load_due(connection, asked.PAYMENTS, moment=moment, after=after, limit=limit)


def run_collections(doors: Doors, payment_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Ask the provider about each of these payments that is still due, and note what it says."""
    return ChunkResult(done=_side_by_side(_charge, doors, payment_ids, moment))


def _side_by_side(act: Callable[[Doors, str, Moment], bool], doors: Doors, ids: Sequence[str], moment: Moment) -> int:
    """Do it to each, some at once: one that waits for an answer holds up few others. How many it changed."""
    with ThreadPoolExecutor(max_workers=ASKED_AT_ONCE) as threads:
        return sum(threads.map(act, repeat(doors), ids, repeat(moment)))


def _charge(doors: Doors, payment_id: str, moment: Moment) -> bool:
    with doors.database.transaction() as connection:
        payment = asked.take(connection, asked.PAYMENTS, payment_id, now=moment.now)
        account = None if payment is None else _account_of(connection, payment)
    if payment is None:
        return False
    crash_point("charge.taken")
    outcome = NOT_CONNECTED
    if account is not None:
        outcome = stripe_api.charge(account, payment, may_create=payment["asked_hours"] < KEY_HOURS)
    crash_point("charge.asked")
    _log_unknown("payment", payment, outcome)
    with doors.database.transaction() as connection:
        noted = note_outcome(
            connection, tenant_id=payment["tenant_id"], payment_id=payment_id, outcome=outcome, now=moment.now
        )
        crash_point("charge.noted")
    crash_point("charge.committed")
    return noted


def load_refunds(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """The next page of refunds that are to be made, or asked after."""
    with doors.database.transaction() as connection:
        return asked.load_due(connection, asked.REFUNDS, moment=moment, after=after, limit=limit)


def run_refunds(doors: Doors, refund_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Ask the provider to pay back each of these that is still due, and note what it says."""
    return ChunkResult(done=_side_by_side(_refund, doors, refund_ids, moment))


def _refund(doors: Doors, refund_id: str, moment: Moment) -> bool:
    with doors.database.transaction() as connection:
        taken = asked.take(connection, asked.REFUNDS, refund_id, now=moment.now)
        account = None if taken is None else _account_of(connection, taken)
        row = load_refund(connection, refund_id)
    if taken is None or row is None:
        return False
    crash_point("refund.taken")
    outcome = NOT_CONNECTED
    if account is not None:
        outcome = stripe_api.refund(account, row, may_create=taken["asked_hours"] < KEY_HOURS)
    crash_point("refund.asked")
    _log_unknown("refund", taken, outcome)
    with doors.database.transaction() as connection:
        noted = note_refund(connection, refund_id, outcome=outcome, now=moment.now)
        crash_point("refund.noted")
    crash_point("refund.committed")
    return noted


def earliest_collections(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first payment of its customers is to be charged, or asked after."""
    return asked.earliest(connection, asked.PAYMENTS, clock_ids)


def earliest_refunds(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """The same of refunds."""
    return asked.earliest(connection, asked.REFUNDS, clock_ids)


def _account_of(connection: PgConnection, asked_for: Row) -> Account | None:
    row = load_provider(connection, tenant_id=asked_for["tenant_id"], provider=Provider.STRIPE)
    if row is None:
        return None
    patience = ANSWER_SECONDS if asked_for["test_clock_id"] is None else CLOCK_ANSWER_SECONDS
    return Account(secret_key=row["secret_key"], api_base=row["api_base"], answer_seconds=patience)


def _log_unknown(what: str, row: Row, outcome: Outcome) -> None:
    if outcome.result is Result.UNKNOWN:
        log.warning("a provider's answer is not known yet", of=what, id=row["id"], attempts=row["attempts"])
