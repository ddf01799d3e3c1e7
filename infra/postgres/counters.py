"""Usage of metered entitlements by period: rows that the flow writes and a check adds up over the shards.

A shard's row of an entitlement's period exists if and only if it was seeded, with all that the shard had stored of
the period; from then on every batch adds its part in its own transaction.
"""

from collections.abc import Sequence
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
    quantity: Decimal


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
    connection: PgConnection, *, keys: Sequence[tuple[int, datetime]]
) -> dict[tuple[int, datetime], list[SeededBy]]:
    """The rows of these (entitlement, period start), of any shard."""
    rows = connection.execute(
        "SELECT e.entitlement_no, e.period_start, e.shard, e.shards FROM entitlement_counters e"
        " JOIN unnest(%s::bigint[], %s::timestamptz[]) AS k (no, start)"
        " ON e.entitlement_no = k.no AND e.period_start = k.start",
        ([number for number, _ in keys], [start for _, start in keys]),
    )
    found: dict[tuple[int, datetime], list[SeededBy]] = {}
    for row in rows:
        key = (row["entitlement_no"], row["period_start"])
        found.setdefault(key, []).append(SeededBy(shard=row["shard"], shards=row["shards"]))
    return found


def insert_counters(connection: PgConnection, *, by: SeededBy, seq: int, changes: Sequence[CounterChange]) -> None:
    """New rows. Raises InvariantBroken when one exists: it would be seeded twice."""
    if not changes:
        return
    inserted = connection.execute(
        "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, shards, used, version)"
        " SELECT no, start, %s, %s, used, %s"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::numeric[]) AS c (no, start, used) ON CONFLICT DO NOTHING",
        (by.shard, by.shards, seq, *_columns(changes)),
    ).rowcount
    if inserted != len(changes):
        raise InvariantBroken("counter.seeded_twice", f"{len(changes) - inserted} counters of shard {by.shard} exist")


def add_to_counters(connection: PgConnection, *, shard: int, seq: int, changes: Sequence[CounterChange]) -> None:
    """Add to rows that exist. Raises InvariantBroken when one does not: its usage would be lost."""
    if not changes:
        return
    updated = connection.execute(
        "UPDATE entitlement_counters e SET used = e.used + c.used, version = %s"
        " FROM unnest(%s::bigint[], %s::timestamptz[], %s::numeric[]) AS c (no, start, used)"
        " WHERE e.shard = %s AND e.entitlement_no = c.no AND e.period_start = c.start",
        (seq, *_columns(changes), shard),
    ).rowcount
    if updated != len(changes):
        raise InvariantBroken("counter.missing", f"{len(changes) - updated} counters of shard {shard} are gone")


def _columns(changes: Sequence[CounterChange]) -> tuple[list[int], list[datetime], list[Decimal]]:
    return (
        [change.entitlement_no for change in changes],
        [change.period_start for change in changes],
        [change.quantity for change in changes],
    )
