"""Subscriptions that have had their last statement and are to be looked at for usage that came late."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

from infra.postgres.due import Due, Moment
from infra.postgres.pool import PgConnection

#: Whose subscriptions: each has an index of its own.
_WITHOUT_CLOCK: LiteralString = "test_clock_id IS NULL"
_OF_CLOCK: LiteralString = "test_clock_id = %(clock_id)s"


def load_due_late_checks(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` subscriptions to be looked at, by (late_check_at, id), from beyond `after` on. Parked ones are
    passed by."""
    whose = _WITHOUT_CLOCK if moment.clock_id is None else _OF_CLOCK
    rows = connection.execute(
        "SELECT late_check_at AS at, id FROM subscriptions"  # noqa: S608 - texts of this file
        " WHERE late_check_at <= %(now)s AND parked_reason IS NULL AND "
        + whose
        + " AND (%(after_id)s::text IS NULL OR (late_check_at, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY late_check_at, id LIMIT %(limit)s",
        {
            "now": moment.now,
            "clock_id": moment.clock_id,
            "after_at": after and after.at,
            "after_id": after and after.id,
            "limit": limit,
        },
    )
    return [Due(row["at"], row["id"]) for row in rows]


def earliest_late_checks(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first subscription of its customers is to be looked at."""
    rows = connection.execute(
        "SELECT test_clock_id, min(late_check_at) AS at FROM subscriptions WHERE test_clock_id = ANY(%s)"
        " AND late_check_at IS NOT NULL AND parked_reason IS NULL GROUP BY test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


def postpone_late_checks(connection: PgConnection, subscription_ids: Sequence[str], *, until: datetime) -> None:
    """Look at them again later, because their usage can't be told now. Rows are locked in the order of their ids."""
    connection.execute(
        "UPDATE subscriptions AS s SET late_check_at = %s FROM"
        " (SELECT id FROM subscriptions WHERE id = ANY(%s) AND late_check_at IS NOT NULL ORDER BY id FOR UPDATE)"
        " AS locked WHERE s.id = locked.id",
        (until, list(subscription_ids)),
    )
