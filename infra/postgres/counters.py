"""Usage of metered entitlements by period: rows that the flow writes and a check adds up over the shards.

A shard's row of an entitlement's period exists if and only if it was seeded, with all that the shard had stored of
the period; from then on every batch adds its part in its own transaction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import LiteralString

from infra.postgres.pool import PgConnection, Row
from schemas.counters import CounterPart, Rank, combine, holds
from schemas.errors import InvariantBroken
from schemas.meters import Aggregation

PAGE_SIZE = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """What a batch adds to one counter; of a new row, the seed and that.

    Where values are ranked: the one that ranks highest of those that come and, in `taken`, the highest rank of those
    that are taken back.
    """

    entitlement_no: int
    period_start: datetime
    meter_revision: int
    quantity: Decimal
    events: int = 0
    rank: Rank | None = None
    taken: Rank | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRow:
    """A counter's row of one shard as it is now."""

    entitlement_no: int
    period_start: datetime
    meter_revision: int
    part: CounterPart
    is_stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededBy:
    """A row's shard, and how many shards there were when it was seeded: it began with what former shards had stored
    whose partitions it had taken over, too."""

    shard: int
    shards: int
    is_stale: bool = False

    def takes(self, stored_by: int) -> bool:
        """Whether what that shard had stored was part of the seed."""
        return stored_by % self.shards == self.shard


def seeded_counters(
    connection: PgConnection, *, keys: Sequence[tuple[int, datetime, int]]
) -> dict[tuple[int, datetime, int], list[SeededBy]]:
    """The rows of these (entitlement, period start, revision of its meter), of any shard."""
    rows = connection.execute(
        "SELECT e.entitlement_no, e.period_start, e.meter_revision, e.shard, e.shards, e.is_stale"
        " FROM entitlement_counters e JOIN unnest(%s::bigint[], %s::timestamptz[], %s::integer[])"
        " AS k (no, start, revision)"
        " ON e.entitlement_no = k.no AND e.period_start = k.start AND e.meter_revision = k.revision",
        ([number for number, _, _ in keys], [start for _, start, _ in keys], [revision for _, _, revision in keys]),
    )
    found: dict[tuple[int, datetime, int], list[SeededBy]] = {}
    for row in rows:
        key = (row["entitlement_no"], row["period_start"], row["meter_revision"])
        found.setdefault(key, []).append(SeededBy(shard=row["shard"], shards=row["shards"], is_stale=row["is_stale"]))
    return found


_GIVEN: LiteralString = (
    "unnest(%s::bigint[], %s::timestamptz[], %s::integer[], %s::numeric[], %s::bigint[], %s::text[], %s::text[])"
    " AS c (no, start, revision, used, events, rank, taken)"
)
_AS_IT_IS: LiteralString = (
    " RETURNING e.entitlement_no, e.period_start, e.meter_revision, e.used, e.events, e.rank, e.is_stale"
)


def insert_counters(
    connection: PgConnection, *, by: SeededBy, seq: int, changes: Sequence[CounterChange], ranked: bool = False
) -> list[CounterRow]:
    """New rows, or rows in the place of those of another revision of the meter, of stale ones and, where values are
    `ranked`, of another layout; as they are then. A seed of which the batch takes the highest back is stale. Raises
    InvariantBroken when another exists: it would be seeded twice."""
    if not changes:
        return []
    _forget_former_shards(connection, shards=by.shards, changes=changes, all_of_them=ranked)
    inserted = connection.execute(
        "INSERT INTO entitlement_counters AS e"  # noqa: S608 - texts of this file
        " (entitlement_no, period_start, shard, shards, used, events, rank, is_stale,"
        " meter_revision, version) SELECT no, start, %s, %s, used, events, rank::numeric[],"
        " taken IS NOT NULL AND coalesce(taken::numeric[] >= rank::numeric[], true), revision, %s FROM "
        + _GIVEN
        + " ON CONFLICT (entitlement_no, period_start, shard) DO UPDATE SET shards = excluded.shards,"
        " used = excluded.used, events = excluded.events, rank = excluded.rank, is_stale = excluded.is_stale,"
        " meter_revision = excluded.meter_revision, version = excluded.version"
        " WHERE e.meter_revision <> excluded.meter_revision OR e.is_stale OR %s AND e.shards <> excluded.shards"
        + _AS_IT_IS,
        (by.shard, by.shards, seq, *_columns(changes), ranked),
    ).fetchall()
    if len(inserted) != len(changes):
        raise InvariantBroken(
            "counter.seeded_twice", f"{len(changes) - len(inserted)} counters of shard {by.shard} exist"
        )
    return [counter_row(row) for row in inserted]


def _forget_former_shards(
    connection: PgConnection, *, shards: int, changes: Sequence[CounterChange], all_of_them: bool
) -> None:
    """Remove the rows, stale or `all_of_them`, of shards that there are no more: their partitions are in the seeds of
    others. Were there as many again one day, the row would be taken for one that has counted all along; and a stale one
    would keep what the others count from being used. Another flow may be doing the same."""
    connection.execute(
        "DELETE FROM entitlement_counters WHERE ctid = ANY(ARRAY(SELECT e.ctid FROM entitlement_counters e"
        " JOIN unnest(%s::bigint[], %s::timestamptz[]) AS c (no, start)"
        " ON e.entitlement_no = c.no AND e.period_start = c.start WHERE e.shard >= %s AND (e.is_stale OR %s)"
        " FOR UPDATE OF e SKIP LOCKED))",
        (
            [change.entitlement_no for change in changes],
            [change.period_start for change in changes],
            shards,
            all_of_them,
        ),
    )


def add_to_counters(
    connection: PgConnection, *, shard: int, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    """Add to rows that exist; as they are then. Raises InvariantBroken when one does not: its usage would be lost."""
    return _update(connection, "used = e.used + c.used, events = e.events + c.events", shard, seq, changes)


def rank_in_counters(
    connection: PgConnection, *, shard: int, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    """Let rows that exist hold the value that ranks highest. One that was, or may have been, taken back makes its row
    stale: what ranks next is known to stored usage alone. Raises InvariantBroken as `add_to_counters`."""
    sets: LiteralString = (
        "used = CASE WHEN c.rank::numeric[] > e.rank OR e.rank IS NULL THEN c.used ELSE e.used END,"
        " rank = greatest(e.rank, c.rank::numeric[]), is_stale = e.is_stale"
        " OR c.taken IS NOT NULL AND coalesce(c.taken::numeric[] >= greatest(e.rank, c.rank::numeric[]), true)"
    )
    return _update(connection, sets, shard, seq, changes)


def mark_stale(
    connection: PgConnection, *, by: SeededBy, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    """Let rows count for nothing, be they there or not; as they are then."""
    if not changes:
        return []
    rows = connection.execute(
        "INSERT INTO entitlement_counters AS e"  # noqa: S608 - texts of this file
        " (entitlement_no, period_start, shard, shards, used, is_stale, meter_revision, version)"
        " SELECT no, start, %s, %s, 0, true, revision, %s FROM "
        + _GIVEN
        + " ON CONFLICT (entitlement_no, period_start, shard) DO UPDATE SET shards = excluded.shards, is_stale = true,"
        " meter_revision = excluded.meter_revision, version = excluded.version" + _AS_IT_IS,
        (by.shard, by.shards, seq, *_columns(changes)),
    )
    return [counter_row(row) for row in rows]


def leave_counters(
    connection: PgConnection, *, shard: int, seq: int, periods: Sequence[tuple[int, datetime]]
) -> list[CounterRow]:
    """Let rows of (entitlement, start of the period) count for nothing, where they are; as they are then."""
    if not periods:
        return []
    rows = connection.execute(
        "UPDATE entitlement_counters e SET is_stale = true, version = %s"  # noqa: S608 - texts of this file
        " FROM unnest(%s::bigint[], %s::timestamptz[]) AS c (no, start)"
        " WHERE e.shard = %s AND e.entitlement_no = c.no AND e.period_start = c.start AND NOT e.is_stale" + _AS_IT_IS,
        (seq, [number for number, _ in periods], [start for _, start in periods], shard),
    )
    return [counter_row(row) for row in rows]


def counting_rows(connection: PgConnection, *, shard: int) -> Iterator[list[tuple[int, datetime]]]:
    """Entitlement and start of the period of the shard's rows that count for something, a page at a time."""
    after = (0, datetime.min.replace(tzinfo=UTC))
    while True:
        rows = connection.execute(
            "SELECT entitlement_no, period_start FROM entitlement_counters"
            " WHERE (entitlement_no, period_start) > (%s, %s) AND shard = %s AND NOT is_stale"
            " ORDER BY entitlement_no, period_start LIMIT %s",
            (*after, shard, PAGE_SIZE),
        ).fetchall()
        page = [(row["entitlement_no"], row["period_start"]) for row in rows]
        yield page
        if len(page) < PAGE_SIZE:
            return
        after = page[-1]


def _update(
    connection: PgConnection, sets: LiteralString, shard: int, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    if not changes:
        return []
    updated = connection.execute(
        "UPDATE entitlement_counters e SET version = %s, "  # noqa: S608 - texts of this file
        + sets
        + " FROM "
        + _GIVEN
        + " WHERE e.shard = %s AND e.entitlement_no = c.no AND e.period_start = c.start"
        " AND e.meter_revision = c.revision" + _AS_IT_IS,
        (seq, *_columns(changes), shard),
    ).fetchall()
    if len(updated) != len(changes):
        raise InvariantBroken("counter.missing", f"{len(changes) - len(updated)} counters of shard {shard} are gone")
    return [counter_row(row) for row in updated]


def load_used(
    connection: PgConnection, periods: Sequence[tuple[int, datetime]], *, shards: int
) -> dict[tuple[int, datetime], Decimal]:
    """Usage of (entitlement_no, period_start), of all shards together; what not every one of the present `shards` has
    a part of is absent: some of its usage is not counted yet. Rows of a revision that readers have left count not.

    The period before the present one of an entitlement is counted, too.
    """
    rows = connection.execute(
        "SELECT c.entitlement_no, c.period_start, c.shard, c.shards, c.used, c.events, c.rank, c.is_stale,"
        " m.aggregation FROM entitlement_counters c"
        " JOIN unnest(%b::bigint[], %b::timestamptz[]) AS wanted (no, start)"
        " ON c.entitlement_no = wanted.no AND c.period_start = wanted.start"
        " JOIN entitlements e ON e.no = c.entitlement_no JOIN features f ON f.id = e.feature_id"
        " JOIN meters m ON m.id = f.meter_id AND m.revision = c.meter_revision",
        ([no for no, _ in periods], [start for _, start in periods]),
    )
    found: dict[tuple[int, datetime], list[Row]] = {}
    for row in rows:
        found.setdefault((row["entitlement_no"], row["period_start"]), []).append(row)
    used: dict[tuple[int, datetime], Decimal] = {}
    for key, own in found.items():
        aggregation = Aggregation(own[0]["aggregation"])
        present = [
            row for row in own if holds(aggregation, shard=row["shard"], shards=shards, seeded_shards=row["shards"])
        ]
        if any(row["is_stale"] for row in present) or sum(row["shard"] < shards for row in present) < shards:
            continue
        used[key] = combine(aggregation, (part_of(row) for row in present))
    return used


def load_given_up(connection: PgConnection, periods: Sequence[tuple[int, datetime]]) -> set[int]:
    """The entitlements that a period of (entitlement_no, period_start) is not counted of any more: flows gave it up,
    since their unique count has too many values. Others that lack a counter have one in a moment."""
    rows = connection.execute(
        "SELECT DISTINCT c.entitlement_no FROM entitlement_counters c"
        " JOIN unnest(%b::bigint[], %b::timestamptz[]) AS wanted (no, start)"
        " ON c.entitlement_no = wanted.no AND c.period_start = wanted.start"
        " JOIN entitlements e ON e.no = c.entitlement_no JOIN features f ON f.id = e.feature_id"
        " JOIN meters m ON m.id = f.meter_id AND m.revision = c.meter_revision"
        " WHERE c.is_stale AND m.aggregation = %s",
        ([no for no, _ in periods], [start for _, start in periods], Aggregation.UNIQUE_COUNT),
    )
    return {row["entitlement_no"] for row in rows}


def part_of(row: Row) -> CounterPart:
    """What a row with `used`, `events` and `rank` has counted."""
    rank = row["rank"]
    return CounterPart(row["used"], row["events"], None if rank is None else tuple(rank))


def counter_row(row: Row) -> CounterRow:
    """A row of the table, of all columns but its shard's."""
    return CounterRow(
        entitlement_no=row["entitlement_no"],
        period_start=row["period_start"],
        meter_revision=row["meter_revision"],
        part=part_of(row),
        is_stale=row["is_stale"],
    )


def _columns(changes: Sequence[CounterChange]) -> tuple[list[object], ...]:
    return (
        [change.entitlement_no for change in changes],
        [change.period_start for change in changes],
        [change.meter_revision for change in changes],
        [change.quantity for change in changes],
        [change.events for change in changes],
        [_text(change.rank) for change in changes],
        [_text(change.taken) for change in changes],
    )


def _text(rank: Rank | None) -> str | None:
    """As PostgreSQL writes an array: an array of arrays would be taken apart by unnest."""
    return None if rank is None else "{" + ",".join(map(str, rank)) + "}"
