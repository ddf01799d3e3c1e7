"""The flow's books in PostgreSQL: where each partition is, and which batches are on their way into ClickHouse.

A batch is stored in three steps: one transaction here (`advance`, `write_intent`, counters), ClickHouse, and one more
here (`commit_intents`). Both transactions check exact row counts: an owner that was replaced finds none and stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.types.json import Jsonb

from infra.postgres.pool import PgConnection
from schemas.errors import Fenced, InvariantBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRange:
    """The offsets `first` to `last`, inclusive, of one partition."""

    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A batch that has its offsets and counters, and not yet surely its rows in ClickHouse."""

    seq: int
    ranges: tuple[OffsetRange, ...]
    catalogue_version: int
    created_at: datetime


def claim_partitions(connection: PgConnection, *, topic: str, shard: int, partitions: Sequence[int]) -> None:
    """Make sure that the shard and its partitions have rows, the partitions as this shard's.

    Raises InvariantBroken while another shard, under an older layout, still has pending intents on one of them.
    """
    connection.execute("INSERT INTO shards (shard) VALUES (%s) ON CONFLICT DO NOTHING", (shard,))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO shard_offsets (topic, partition, shard) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [(topic, partition, shard) for partition in partitions],
        )
    unfinished = connection.execute(
        "SELECT DISTINCT o.shard FROM shard_offsets o JOIN intents i ON i.shard = o.shard AND i.state = 'pending'"
        " WHERE o.topic = %s AND o.partition = ANY(%s) AND o.shard <> %s"
        " AND EXISTS (SELECT FROM jsonb_array_elements(i.ranges) AS r WHERE (r ->> 0)::integer = o.partition)",
        (topic, list(partitions), shard),
    ).fetchall()
    if unfinished:
        raise InvariantBroken(
            "shard.unfinished",
            f"shards {[row['shard'] for row in unfinished]} have pending intents on partitions of shard {shard}:"
            " run the flows once more with the former METERLINE_FLOW_SHARDS",
        )
    connection.execute(
        "UPDATE shard_offsets SET shard = %s WHERE topic = %s AND partition = ANY(%s) AND shard <> %s",
        (shard, topic, list(partitions), shard),
    )


def lock_shard(connection: PgConnection, *, shard: int) -> int:
    """Let one transaction of the shard run at a time. Both threads of a flow, and a flow that was replaced, write the
    same rows: each begins with this, so that none waits for another in a ring. The number of the shard's last intent, 0
    before the first: whichever process wrote it, no row of the shard has a higher version."""
    row = connection.execute("SELECT next_seq FROM shards WHERE shard = %s FOR UPDATE", (shard,)).fetchone()
    assert row is not None, "the shard is claimed before it is locked"
    return row["next_seq"] - 1


def lock_unmoved(connection: PgConnection, *, shard: int, last_seq: int) -> None:
    """The same for an owner that rests on what it has read since its last intent. Raises Fenced when another one has
    gone on from there: a process that stood still may hold figures of long ago."""
    found = lock_shard(connection, shard=shard)
    if found != last_seq:
        raise Fenced("shard.fenced", f"shard {shard} has come to intent {found}, not {last_seq}: another owner did")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """`next_offset` is the first that no batch has; `stored_until` is None before anything was stored."""

    next_offset: int
    stored_until: datetime | None


def load_partitions(connection: PgConnection, *, topic: str, shard: int) -> dict[int, PartitionState]:
    """Where the shard's partitions are."""
    rows = connection.execute(
        "SELECT partition, next_offset, CASE WHEN isfinite(stored_until) THEN stored_until END AS stored_until"
        " FROM shard_offsets WHERE topic = %s AND shard = %s",
        (topic, shard),
    )
    return {
        row["partition"]: PartitionState(next_offset=row["next_offset"], stored_until=row["stored_until"])
        for row in rows
    }


def advance(
    connection: PgConnection, *, topic: str, shard: int, ranges: Sequence[OffsetRange], until: dict[int, datetime]
) -> None:
    """Move the offsets of a batch on, and `counted_until` of every partition named in `until`.

    Raises Fenced when a partition is not where this owner left it: another owner has gone on from there.
    """
    updated = connection.execute(
        "UPDATE shard_offsets o SET next_offset = b.last + 1"
        " FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) AS b (partition, first, last)"
        " WHERE o.topic = %s AND o.shard = %s AND o.partition = b.partition AND o.next_offset = b.first",
        ([r.partition for r in ranges], [r.first for r in ranges], [r.last for r in ranges], topic, shard),
    ).rowcount
    if updated != len(ranges):
        raise Fenced("shard.fenced", f"shard {shard} moved {updated} of {len(ranges)} partitions: another owner did")
    _move_until(connection, _COUNTED, topic=topic, shard=shard, until=until)


def write_intent(connection: PgConnection, *, shard: int, intent: Intent) -> None:
    """Record the batch as pending under the shard's next number. Raises Fenced when that number is taken."""
    taken = connection.execute(
        "UPDATE shards SET next_seq = next_seq + 1, catalogue_version = %s WHERE shard = %s AND next_seq = %s",
        (intent.catalogue_version, shard, intent.seq),
    ).rowcount
    if taken != 1:
        raise Fenced("shard.fenced", f"shard {shard} has gone past intent {intent.seq}: another owner did")
    connection.execute(
        "INSERT INTO intents (shard, seq, ranges, catalogue_version, state, created_at)"
        " VALUES (%s, %s, %s, %s, 'pending', %s)",
        (shard, intent.seq, Jsonb([[r.partition, r.first, r.last] for r in intent.ranges]),
         intent.catalogue_version, intent.created_at),
    )  # fmt: skip


def record_catalogue_version(connection: PgConnection, *, shard: int, version: int) -> None:
    """Say that no batch of the shard from here on is judged by an older catalogue."""
    connection.execute(
        "UPDATE shards SET catalogue_version = %s WHERE shard = %s AND catalogue_version < %s",
        (version, shard, version),
    )


def commit_intents(
    connection: PgConnection, *, topic: str, shard: int, seqs: Sequence[int], until: dict[int, datetime]
) -> None:
    """The intents' rows are in ClickHouse: mark them, and move `stored_until`.

    Raises Fenced when one of them is not pending any more: another owner has redone it.
    """
    committed = connection.execute(
        "UPDATE intents SET state = 'committed' WHERE shard = %s AND seq = ANY(%s) AND state = 'pending'",
        (shard, list(seqs)),
    ).rowcount
    if committed != len(seqs):
        raise Fenced("shard.fenced", f"shard {shard} committed {committed} of {len(seqs)} intents: another owner did")
    _move_until(connection, _STORED, topic=topic, shard=shard, until=until)


_COUNTED: LiteralString = (
    "UPDATE shard_offsets o SET counted_until = greatest(o.counted_until, b.until)"
    " FROM unnest(%s::integer[], %s::timestamptz[]) AS b (partition, until)"
    " WHERE o.topic = %s AND o.shard = %s AND o.partition = b.partition"
)
_STORED: LiteralString = (
    "UPDATE shard_offsets o SET stored_until = greatest(o.stored_until, b.until)"
    " FROM unnest(%s::integer[], %s::timestamptz[]) AS b (partition, until)"
    " WHERE o.topic = %s AND o.shard = %s AND o.partition = b.partition"
)


def _move_until(
    connection: PgConnection, query: LiteralString, *, topic: str, shard: int, until: dict[int, datetime]
) -> None:
    if not until:
        return
    moved = connection.execute(query, (list(until), list(until.values()), topic, shard)).rowcount
    if moved != len(until):
        raise Fenced("shard.fenced", f"shard {shard} no longer owns {len(until) - moved} of its partitions")


def pending_intents(connection: PgConnection, *, shard: int) -> list[Intent]:
    """The shard's batches that must be redone, in their order."""
    rows = connection.execute(
        "SELECT seq, ranges, catalogue_version, created_at FROM intents"
        " WHERE shard = %s AND state = 'pending' ORDER BY seq",
        (shard,),
    )
    return [
        Intent(
            seq=row["seq"],
            ranges=tuple(OffsetRange(partition=p, first=first, last=last) for p, first, last in row["ranges"]),
            catalogue_version=row["catalogue_version"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


def next_seq(connection: PgConnection, *, shard: int) -> int:
    """The number that the shard's next intent will have."""
    row = connection.execute("SELECT next_seq FROM shards WHERE shard = %s", (shard,)).fetchone()
    assert row is not None, "the shard is claimed before it is read"
    return row["next_seq"]


def remove_committed(connection: PgConnection, *, shard: int, below_seq: int, limit: int) -> int:
    """Forget up to `limit` committed intents older than `below_seq`; the number removed."""
    return connection.execute(
        "DELETE FROM intents WHERE shard = %s AND state = 'committed' AND seq IN"
        " (SELECT seq FROM intents WHERE shard = %s AND seq < %s ORDER BY seq LIMIT %s)",
        (shard, shard, below_seq, limit),
    ).rowcount


def usage_as_of(connection: PgConnection, *, topic: str, partitions: int) -> datetime | None:
    """Every event acknowledged before this instant is in the usage windows.

    None until each of the topic's `partitions` has been stored from at least once.
    """
    row = connection.execute(
        "SELECT CASE WHEN count(*) = %s AND isfinite(min(stored_until)) THEN min(stored_until) END AS as_of"
        " FROM shard_offsets WHERE topic = %s",
        (partitions, topic),
    ).fetchone()
    return row["as_of"] if row else None


def counters_as_of(connection: PgConnection, *, topic: str, partitions: int) -> datetime | None:
    """Every event acknowledged before this instant is in the entitlement counters. None as in `usage_as_of`."""
    row = connection.execute(
        "SELECT CASE WHEN count(*) = %s AND isfinite(min(counted_until)) THEN min(counted_until) END AS as_of"
        " FROM shard_offsets WHERE topic = %s",
        (partitions, topic),
    ).fetchone()
    return row["as_of"] if row else None
