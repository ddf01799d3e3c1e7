"""Rows about which a provider is to be asked, payments and refunds alike: found, taken, and put off.

Both have `ask_at` while they are pending. Who takes one puts `ask_at` off by LEASE and counts the attempt before it
asks, so that a crash meanwhile lets the next one know that somebody may have asked.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString

from infra.postgres.due import Due, Moment
from infra.postgres.pool import PgConnection, Row

LEASE = timedelta(minutes=5)  # longer than any answer of a provider takes
MAX_DELAY = timedelta(hours=1)  # between two questions
CLOCK_DELAY = timedelta(days=1)  # the same by a test clock, which would else ask thousands of times in a year's advance
QUICK_ATTEMPTS = 5  # before that

PAYMENTS: LiteralString = "payments"
REFUNDS: LiteralString = "refunds"


def load_due(
    connection: PgConnection, table: LiteralString, *, moment: Moment, after: Due | None, limit: int
) -> list[Due]:
    """Up to `limit` rows by (ask_at, id) from beyond `after` on, of customers without a clock or of one clock."""
    whose: LiteralString = "test_clock_id IS NULL" if moment.clock_id is None else "test_clock_id = %(clock_id)s"
    rows = connection.execute(
        "SELECT ask_at AS at, id FROM "  # noqa: S608 - texts of this file
        + table
        + " WHERE ask_at <= %(now)s AND "
        + whose
        + " AND (%(after_id)s::text IS NULL OR (ask_at, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY ask_at, id LIMIT %(limit)s",
        {
            "now": moment.now,
            "clock_id": moment.clock_id,
            "after_at": after and after.at,
            "after_id": after and after.id,
            "limit": limit,
        },
    )
    return [Due(row["at"], row["id"]) for row in rows]


def earliest(connection: PgConnection, table: LiteralString, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, the first instant at which a provider is to be asked."""
    rows = connection.execute(
        "SELECT test_clock_id, min(ask_at) AS at FROM "  # noqa: S608 - texts of this file
        + table
        + " WHERE test_clock_id = ANY(%s) AND ask_at IS NOT NULL GROUP BY test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


def take(connection: PgConnection, table: LiteralString, row_id: str, *, now: datetime) -> Row | None:
    """Take a row that is due, and count the attempt: `asked_hours`, since it was first asked, in real time. None:
    somebody else has it, or it is settled."""
    return connection.execute(
        "UPDATE "  # noqa: S608 - texts of this file
        + table
        + " SET ask_at = %s, attempts = attempts + 1, asked_at = coalesce(asked_at, clock_timestamp())"
        " WHERE id = %s AND ask_at <= %s RETURNING *,"
        " floor(extract(epoch FROM clock_timestamp() - asked_at) / 3600)::int AS asked_hours",
        (now + LEASE, row_id, now),
    ).fetchone()


def put_off(
    connection: PgConnection, table: LiteralString, row_id: str, *, reference: str | None, attempts: int, now: datetime
) -> None:
    """Ask again later, each time later up to MAX_DELAY; `reference` is kept once it is known."""
    delay = MAX_DELAY if reference is not None else min(MAX_DELAY, timedelta(seconds=5) * 2 ** min(attempts, 10))
    connection.execute(
        "UPDATE "  # noqa: S608 - texts of this file
        + table
        + " SET ask_at = CASE WHEN test_clock_id IS NOT NULL AND attempts > %s THEN %s ELSE %s END,"
        " reference = coalesce(reference, %s) WHERE id = %s AND ask_at IS NOT NULL",
        (QUICK_ATTEMPTS, now + CLOCK_DELAY, now + delay, reference, row_id),
    )
