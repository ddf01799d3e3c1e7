"""What every list of due work has in common: its order, whose work it is, and the two questions about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple

from psycopg.sql import SQL, Identifier

from infra.postgres.pool import PgConnection


class Due(NamedTuple):
    """A place in the order of what is due: the instant, then the id of the row."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """`now`, for the customers of one test clock; `clock_id` None: for all customers that have none."""

    now: datetime
    clock_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRows:
    """Rows of a table that has `id` and `test_clock_id`, due at what the column `at` says while `condition` (SQL)
    holds."""

    table: LiteralString
    at: LiteralString
    condition: LiteralString = "true"


def page_parameters(moment: Moment, after: Due | None, limit: int) -> dict[str, object]:
    """What every query of a page of due work is given: `now`, `clock_id`, `after_at`, `after_id`, `limit`."""
    return {
        "now": moment.now,
        "clock_id": moment.clock_id,
        "after_at": after and after.at,
        "after_id": after and after.id,
        "limit": limit,
    }


def load_due_rows(
    connection: PgConnection, rows: DueRows, *, moment: Moment, after: Due | None, limit: int
) -> list[Due]:
    """Up to `limit` rows that are due, by (at, id), from beyond `after` on. With and without a clock each have an index
    of their own, so which of the two is asked for stands in the query."""
    query = SQL(
        "SELECT {at} AS at, id FROM {table} WHERE {at} <= %(now)s AND {condition} AND {whose}"
        " AND (%(after_id)s::text IS NULL OR ({at}, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY {at}, id LIMIT %(limit)s"
    ).format(
        at=Identifier(rows.at),
        table=Identifier(rows.table),
        condition=SQL(rows.condition),
        whose=SQL("test_clock_id IS NULL" if moment.clock_id is None else "test_clock_id = %(clock_id)s"),
    )
    found = connection.execute(query, page_parameters(moment, after, limit))
    return [Due(row["at"], row["id"]) for row in found]


def earliest_rows(connection: PgConnection, rows: DueRows, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first of its rows is due."""
    query = SQL(
        "SELECT test_clock_id, min({at}) AS at FROM {table} WHERE test_clock_id = ANY(%s) AND {at} IS NOT NULL"
        " AND {condition} GROUP BY test_clock_id"
    ).format(at=Identifier(rows.at), table=Identifier(rows.table), condition=SQL(rows.condition))
    return {row["test_clock_id"]: row["at"] for row in connection.execute(query, (list(clock_ids),))}
