"""Rows about which a provider is to be asked, payments and refunds alike: found, taken, and put off.

Both have `ask_at` while they are pending. Who takes one puts `ask_at` off by LEASE and counts the attempt before it
asks, so that a crash meanwhile lets the next one know that somebody may have asked.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString

from infra.postgres.due import Due, DueRows, Moment, earliest_rows, load_due_rows
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
    return load_due_rows(connection, DueRows(table=table, at="ask_at"), moment=moment, after=after, limit=limit)


def earliest(connection: PgConnection, table: LiteralString, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, the first instant at which a provider is to be asked."""
    return earliest_rows(connection, DueRows(table=table, at="ask_at"), clock_ids)


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
