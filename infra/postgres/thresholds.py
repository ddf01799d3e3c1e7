"""Subscriptions whose running usage is to be looked at, because they have a threshold."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.due import Due, Moment, page_parameters
from infra.postgres.pool import PgConnection


def load_due_thresholds(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` subscriptions with a threshold whose time to be looked at has come, from beyond `after` on."""
    rows = connection.execute(
        "SELECT threshold_check_at AS at, id FROM subscriptions"
        " WHERE invoice_threshold IS NOT NULL AND parked_reason IS NULL AND next_bill_at IS NOT NULL"
        " AND threshold_check_at <= %(now)s AND billed_until <= %(now)s"
        " AND test_clock_id IS NOT DISTINCT FROM %(clock_id)s::text"
        " AND (%(after_id)s::text IS NULL OR (threshold_check_at, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY threshold_check_at, id LIMIT %(limit)s",
        page_parameters(moment, after, limit),
    )
    return [Due(row["at"], row["id"]) for row in rows]


def earliest_thresholds(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the running usage of one of its customers is to be looked at."""
    rows = connection.execute(
        "SELECT test_clock_id, min(greatest(threshold_check_at, billed_until)) AS at FROM subscriptions"
        " WHERE test_clock_id = ANY(%s) AND invoice_threshold IS NOT NULL AND parked_reason IS NULL"
        " AND next_bill_at IS NOT NULL AND billed_until IS NOT NULL GROUP BY test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


def postpone_checks(connection: PgConnection, subscription_ids: Sequence[str], *, until: datetime) -> int:
    """Look at them again no earlier than at an instant; how many they are. Locks rows in the order of their ids."""
    return connection.execute(
        "UPDATE subscriptions AS s SET threshold_check_at = %s FROM"
        " (SELECT id FROM subscriptions WHERE id = ANY(%s) ORDER BY id FOR UPDATE) AS locked WHERE s.id = locked.id",
        (until, list(subscription_ids)),
    ).rowcount


def usage_billed_until(connection: PgConnection, *, subscription_id: str, since: datetime | None) -> datetime | None:
    """Up to when thresholds have billed usage beyond `since`, up to which all is billed; None: they have not."""
    row = connection.execute(
        "SELECT max(period_end) AS at FROM invoice_statements WHERE subscription_id = %s AND kind = 'threshold'"
        " AND period_end > %s",
        (subscription_id, since),
    ).fetchone()
    assert row is not None
    return row["at"]
