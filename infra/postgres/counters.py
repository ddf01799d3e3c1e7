"""Usage of metered entitlements by period: rows that the flow writes and a check adds up over the shards.

A shard's row of an entitlement's period exists if and only if it was seeded, with all that the shard had stored of
the period; from then on every batch adds its part in its own transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.postgres.pool import PgConnection
from schemas.errors import InvariantBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """What a batch adds to one counter; of a new row, the seed and that."""

    entitlement_no: int
    period_start: datetime
    meter_revision: int
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterRow:
    """A counter's row of one shard as it is now."""

    entitlement_no: int
    period_start: datetime
    meter_revision: int
    used: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededBy:
    """A row's shard, and how many shards there were when it was seeded: it began with what former shards had stored
    whose partitions it had taken over, too."""

    shard: int
    shards: int

    def takes(self, stored_by: int) -> bool:
        """Whether what that shard had stored was part of the seed."""
        return stored_by % self.shards == self.shard


def seeded_counters(
    connection: PgConnection, *, keys: Sequence[tuple[int, datetime, int]]
) -> dict[tuple[int, datetime, int], list[SeededBy]]:
    """The rows of these (entitlement, period start, revision of its meter), of any shard."""
    rows = connection.execute(
        "SELECT e.entitlement_no, e.period_start, e.meter_revision, e.shard, e.shards FROM entitlement_counters e"
        " JOIN unnest(%s::bigint[], %s::timestamptz[], %s::integer[]) AS k (no, start, revision)"
        " ON e.entitlement_no = k.no AND e.period_start = k.start AND e.meter_revision = k.revision",
        ([number for number, _, _ in keys], [start for _, start, _ in keys], [revision for _, _, revision in keys]),
    )
    found: dict[tuple[int, datetime, int], list[SeededBy]] = {}
    for row in rows:
        key = (row["entitlement_no"], row["period_start"], row["meter_revision"])
        found.setdefault(key, []).append(SeededBy(shard=row["shard"], shards=row["shards"]))
    return found


def insert_counters(
    connection: PgConnection, *, by: SeededBy, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    """New rows, or rows in the place of those of another revision of the meter; as they are then. Raises
    InvariantBroken when one exists of the same: it would be seeded twice."""
    if not changes:
        return []
    inserted = connection.execute(
        "INSERT INTO entitlement_counters AS e (entitlement_no, period_start, shard, shards, used, meter_revision,"
        " version) SELECT no, start, %s, %s, used, revision, %s"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::integer[], %s::numeric[]) AS c (no, start, revision, used)"
        " ON CONFLICT (entitlement_no, period_start, shard) DO UPDATE SET shards = excluded.shards,"
        " used = excluded.used, meter_revision = excluded.meter_revision, version = excluded.version"
        " WHERE e.meter_revision <> excluded.meter_revision"
        " RETURNING entitlement_no, period_start, meter_revision, used",
        (by.shard, by.shards, seq, *_columns(changes)),
    ).fetchall()
    if len(inserted) != len(changes):
        raise InvariantBroken(
            "counter.seeded_twice", f"{len(changes) - len(inserted)} counters of shard {by.shard} exist"
        )
    return [CounterRow(**row) for row in inserted]


def add_to_counters(
    connection: PgConnection, *, shard: int, seq: int, changes: Sequence[CounterChange]
) -> list[CounterRow]:
    """Add to rows that exist; as they are then. Raises InvariantBroken when one does not: its usage would be lost."""
    if not changes:
        return []
    updated = connection.execute(
        "UPDATE entitlement_counters e SET used = e.used + c.used, version = %s"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::integer[], %s::numeric[]) AS c (no, start, revision, used)"
        " WHERE e.shard = %s AND e.entitlement_no = c.no AND e.period_start = c.start"
        " AND e.meter_revision = c.revision"
        " RETURNING e.entitlement_no, e.period_start, e.meter_revision, e.used",
        (seq, *_columns(changes), shard),
    ).fetchall()
    if len(updated) != len(changes):
        raise InvariantBroken("counter.missing", f"{len(changes) - len(updated)} counters of shard {shard} are gone")
    return [CounterRow(**row) for row in updated]


def remove_ended(connection: PgConnection, *, shard: int, before: Mapping[int, datetime]) -> None:
    """Forget the shard's rows of periods that begin before the instant given for their entitlement."""
    if before:
        connection.execute(
            "DELETE FROM entitlement_counters e USING unnest(%s::bigint[], %s::timestamptz[]) AS c (no, start)"
            " WHERE e.shard = %s AND e.entitlement_no = c.no AND e.period_start < c.start",
            (list(before), list(before.values()), shard),
        )


def _columns(changes: Sequence[CounterChange]) -> tuple[list[int], list[datetime], list[int], list[Decimal]]:
    return (
        [change.entitlement_no for change in changes],
        [change.period_start for change in changes],
        [change.meter_revision for change in changes],
        [change.quantity for change in changes],
    )
