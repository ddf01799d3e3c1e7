"""Counters, and values of unique counts, that nobody will ask for any more: who has any, and their removal. Neither
does this wait for a flow that counts, nor a flow for this: what another transaction has in hand is passed by."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import LiteralString

from infra.postgres.pool import PgConnection
from schemas.counters import COUNTED_BY

#: Later than any period begins.
EVER = datetime(9999, 1, 1, tzinfo=UTC)

#: By entitlement: what begins before which instant is of no use.
Before = Mapping[int, datetime]


def load_place(connection: PgConnection, *, shard: int) -> int:
    """The entitlement that the shard's walk came to last, 0 before the first."""
    row = connection.execute("SELECT swept_no FROM shards WHERE shard = %s", (shard,)).fetchone()
    assert row is not None, "the shard is claimed before it is swept"
    return row["swept_no"]


def save_place(connection: PgConnection, *, shard: int, number: int) -> None:
    """Let the walk go on after this entitlement."""
    connection.execute("UPDATE shards SET swept_no = %s WHERE shard = %s", (number, shard))


_COUNTERS: LiteralString = "entitlement_counters"
_VALUES: LiteralString = "entitlement_values"


def numbers_after(connection: PgConnection, *, number: int, with_values: bool, limit: int) -> list[int]:
    """The next entitlements that have counters, or values where they are asked for, in order."""
    tables = (_COUNTERS, _VALUES) if with_values else (_COUNTERS,)
    return sorted({found for table in tables for found in _next_of(connection, table, number, limit)})[:limit]


def _next_of(connection: PgConnection, table: LiteralString, number: int, limit: int) -> list[int]:
    """From number to number by the primary key: one entitlement may have a hundred thousand values."""
    rows = connection.execute(
        "WITH RECURSIVE walk (no) AS ("  # noqa: S608 - texts of this file
        " (SELECT entitlement_no FROM " + table + " WHERE entitlement_no > %s ORDER BY entitlement_no LIMIT 1)"
        " UNION ALL SELECT (SELECT t.entitlement_no FROM " + table + " t WHERE t.entitlement_no > walk.no"
        "  ORDER BY t.entitlement_no LIMIT 1) FROM walk WHERE walk.no IS NOT NULL)"
        " SELECT no FROM walk WHERE no IS NOT NULL LIMIT %s",
        (number, limit),
    )
    return [row["no"] for row in rows]


def still_counted(connection: PgConnection, *, numbers: Sequence[int], ended_after: datetime) -> set[int]:
    """Which of these are there, have not ended before that instant, and are of meters that counters can hold."""
    rows = connection.execute(
        "SELECT e.no FROM entitlements e JOIN features f ON f.id = e.feature_id JOIN meters m ON m.id = f.meter_id"
        " WHERE e.no = ANY(%s) AND (e.ends_at IS NULL OR e.ends_at > %s) AND m.aggregation = ANY(%s)",
        (list(numbers), ended_after, sorted(COUNTED_BY)),
    )
    return {row["no"] for row in rows}


def remove_counters(
    connection: PgConnection, *, shard: int, former_from: int | None, before: Before, limit: int
) -> int:
    """Remove up to `limit` counters of the shard and, from `former_from` on, of shards that there are no more; how
    many."""
    return connection.execute(
        "DELETE FROM entitlement_counters WHERE ctid = ANY(ARRAY(SELECT old.ctid"
        " FROM unnest(%s::bigint[], %s::timestamptz[]) AS k (no, start) CROSS JOIN LATERAL ("
        "  SELECT e.ctid FROM entitlement_counters e WHERE e.entitlement_no = k.no AND e.period_start < k.start"
        "  AND (e.shard = %s OR e.shard >= %s) LIMIT %s FOR UPDATE SKIP LOCKED) old LIMIT %s))",
        (*_columns(before), shard, former_from, limit, limit),
    ).rowcount


def remove_values(connection: PgConnection, *, before: Before, limit: int) -> int:
    """Remove up to `limit` values of periods that begin before the given instants; how many."""
    return connection.execute(
        "DELETE FROM entitlement_values WHERE ctid = ANY(ARRAY(SELECT old.ctid"
        " FROM unnest(%s::bigint[], %s::timestamptz[]) AS k (no, start) CROSS JOIN LATERAL ("
        "  SELECT v.ctid FROM entitlement_values v WHERE v.entitlement_no = k.no AND v.period_start < k.start"
        "  LIMIT %s FOR UPDATE SKIP LOCKED) old LIMIT %s))",
        (*_columns(before), limit, limit),
    ).rowcount


def remove_former_values(
    connection: PgConnection, *, periods: Collection[tuple[int, datetime, int]], limit: int
) -> int:
    """Remove up to `limit` values that were kept for revisions before the given one, of (entitlement, start of the
    period, revision of its meter); how many."""
    if not periods:
        return 0
    return connection.execute(
        "DELETE FROM entitlement_values WHERE ctid = ANY(ARRAY(SELECT old.ctid"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::integer[]) AS k (no, start, revision) CROSS JOIN LATERAL ("
        "  SELECT v.ctid FROM entitlement_values v WHERE v.entitlement_no = k.no AND v.period_start = k.start"
        "  AND v.meter_revision < k.revision LIMIT %s FOR UPDATE SKIP LOCKED) old LIMIT %s))",
        (
            [number for number, _, _ in periods],
            [start for _, start, _ in periods],
            [revision for _, _, revision in periods],
            limit,
            limit,
        ),
    ).rowcount


def _columns(before: Before) -> tuple[list[int], list[datetime]]:
    return list(before), list(before.values())
