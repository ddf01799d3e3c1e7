"""Subscriptions that have had their last statement and are to be looked at for usage that came late."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.due import Due, DueRows, Moment, earliest_rows, load_due_rows
from infra.postgres.pool import PgConnection

_TO_LOOK_AT = DueRows(table="subscriptions", at="late_check_at", condition="parked_reason IS NULL")


def load_due_late_checks(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` subscriptions to be looked at, by (late_check_at, id), from beyond `after` on. Parked ones are
    passed by."""
    return load_due_rows(connection, _TO_LOOK_AT, moment=moment, after=after, limit=limit)


def earliest_late_checks(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first subscription of its customers is to be looked at."""
    return earliest_rows(connection, _TO_LOOK_AT, clock_ids)


def postpone_late_checks(connection: PgConnection, subscription_ids: Sequence[str], *, until: datetime) -> None:
    """Look at them again later, because their usage can't be told now. Rows are locked in the order of their ids."""
    connection.execute(
        "UPDATE subscriptions AS s SET late_check_at = %s FROM"
        " (SELECT id FROM subscriptions WHERE id = ANY(%s) AND late_check_at IS NOT NULL ORDER BY id FOR UPDATE)"
        " AS locked WHERE s.id = locked.id",
        (until, list(subscription_ids)),
    )
