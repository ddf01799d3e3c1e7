"""The past of one type of event: facts as stored, read in order and in bounded blocks by whoever judges them again.

A fact counts iff its `effect` is not 0. A batch may stand in the table twice until parts are merged, hence FINAL.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from infra.clickhouse.client import Client
from schemas.catalogue import MeterEntry
from schemas.instants import from_micros

Table = Any  # a pyarrow.Table: pyarrow publishes no types

ROWS_A_BLOCK = 16_384
BYTES_A_BLOCK = 16 * 1024 * 1024  # rows of a block are fewer when they are large
FLOOR_SECONDS = 2  # that a look for the first event of a type may take

#: The tables of windows: which column is the time, and all that say what a window is.
WINDOW_TIMES = {"usage_minutes": "minute", "usage_values": "occurred_at"}
WINDOW_COLUMNS = {
    "usage_minutes": ("customer_no", "minute", "group_values", "shard", "seq", "event_count", "total"),
    "usage_values": (
        "customer_no", "occurred_at", "group_values", "received_at", "kafka_partition", "kafka_offset", "kafka_index",
        "effect", "shard", "seq", "value", "text",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Facts of one tenant and type that shards have stored after their batch in `after`, up to that in `seqs`.

    A shard that is not in `seqs` has none; one that is not in `after`, all from its first.
    """

    tenant_no: int
    event_type: str
    seqs: Mapping[int, int]
    after: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True, order=True)
class Hour:
    """A customer's hour of event time, in the order of the table. `start` counts seconds from 1970."""

    customer_no: int
    start: int


def first_received(client: Client, *, tenant_no: int, event_type: str) -> datetime | None:
    """When the broker took the first stored event of the type; None when there is none. Raises ClickHouseError."""
    count, first = client.query(
        "SELECT count(), toUnixTimestamp64Micro(min(received_at)) FROM events"
        " WHERE tenant_no = {tenant_no:UInt32} AND type = {type:String}",
        parameters={"tenant_no": tenant_no, "type": event_type},
        settings={"max_execution_time": FLOOR_SECONDS},
    ).result_rows[0]
    return from_micros(first) if count else None


def count_facts(client: Client, selection: Selection) -> int:
    """About how many facts `fact_blocks` gives: those of batches that stand there twice count twice."""
    return client.query(
        f"SELECT count() FROM events WHERE {_SELECTED}",  # noqa: S608 - a text of this file
        parameters=_parameters(selection),
    ).result_rows[0][0]


def fact_blocks(client: Client, selection: Selection, *, start: Hour | None = None) -> Iterator[Table]:
    """The facts that count, in the order of (customer, hour of event time), from the hour `start` on. In blocks.

    Columns: customer_no, received_micros, occurred_micros, hour (seconds), kafka_partition, kafka_offset,
    kafka_index, shard, seq, effect, data. One query streams all of them; leaving the iterator early ends it.
    """
    yield from _stream(
        client,
        f"SELECT {_COLUMNS} FROM events FINAL WHERE {_SELECTED}"  # noqa: S608 - texts of this file
        " AND (customer_no > {customer_no:UInt64} OR (customer_no = {customer_no:UInt64}"
        " AND toStartOfHour(occurred_at) >= toDateTime({hour:UInt32}, 'UTC')))"
        " ORDER BY tenant_no, type, customer_no, toStartOfHour(occurred_at)",
        _parameters(selection)
        | ({"customer_no": 0, "hour": 0} if start is None else {"customer_no": start.customer_no, "hour": start.start}),
    )


def hour_blocks(client: Client, selection: Selection, hour: Hour) -> Iterator[Table]:
    """The facts of one hour, as `fact_blocks` gives them, in the order of (shard, seq)."""
    yield from _stream(
        client,
        f"SELECT {_COLUMNS} FROM events FINAL WHERE {_SELECTED} AND customer_no = {{customer_no:UInt64}}"  # noqa: S608
        " AND toStartOfHour(occurred_at) = toDateTime({hour:UInt32}, 'UTC')"
        " ORDER BY shard, seq",
        _parameters(selection) | {"customer_no": hour.customer_no, "hour": hour.start},
    )


_COLUMNS = (
    "customer_no, toUnixTimestamp64Micro(received_at) AS received_micros, toUnixTimestamp64Micro(occurred_at) AS"
    " occurred_micros, toUnixTimestamp(toStartOfHour(occurred_at)) AS hour, kafka_partition, kafka_offset, kafka_index,"
    " shard, seq, effect, data"
)
_BATCHES = (
    "seq <= transform(shard, {shards:Array(UInt16)}, {seqs:Array(UInt64)}, toUInt64(0))"
    " AND seq > transform(shard, {shards:Array(UInt16)}, {after:Array(UInt64)}, toUInt64(0))"
)
_SELECTED = "tenant_no = {tenant_no:UInt32} AND type = {type:String} AND effect != 0 AND " + _BATCHES


def _parameters(selection: Selection) -> dict[str, Any]:
    return {"tenant_no": selection.tenant_no, "type": selection.event_type} | _batches(selection)


def _batches(selection: Selection) -> dict[str, Any]:
    seqs = dict(selection.seqs) or {0: 0}  # arrays that are empty have no type
    return {
        "shards": list(seqs),
        "seqs": list(seqs.values()),
        "after": [selection.after.get(shard, 0) for shard in seqs],
    }


def window_blocks(
    client: Client, table: str, *, meter: MeterEntry, selection: Selection, low: Hour, high: Hour | None
) -> Iterator[Table]:
    """The stored window rows of a meter's revision, of the selected batches, from the hour `low` to before `high`.

    Columns: WINDOW_COLUMNS of `table`, as the flow writes them.
    """
    time, columns = WINDOW_TIMES[table], ", ".join(WINDOW_COLUMNS[table])
    yield from _stream(
        client,
        f"SELECT {columns} FROM {table} FINAL WHERE meter_no = {{meter_no:UInt32}}"  # noqa: S608 - texts of this file
        f" AND revision = {{revision:UInt32}} AND {_BATCHES}"
        " AND (customer_no > {low_customer:UInt64} OR (customer_no = {low_customer:UInt64}"
        f" AND toStartOfHour({time}) >= toDateTime({{low_hour:UInt32}}, 'UTC')))"
        " AND ({to_the_end:Bool} OR customer_no < {high_customer:UInt64} OR (customer_no = {high_customer:UInt64}"
        f" AND toStartOfHour({time}) < toDateTime({{high_hour:UInt32}}, 'UTC')))",
        _batches(selection)
        | {
            "meter_no": meter.meter_no,
            "revision": meter.revision,
            "low_customer": low.customer_no,
            "low_hour": low.start,
            "to_the_end": high is None,
            "high_customer": 0 if high is None else high.customer_no,
            "high_hour": 0 if high is None else high.start,
        },
    )


def remove_windows(client: Client, *, meter_no: int, revision: int) -> None:
    """Have all windows of a revision that nobody counts or reads removed: asked for here, done when ClickHouse comes to
    it. On a large table that takes longer than a client waits for an answer.
    """
    for table in WINDOW_TIMES:
        client.command(
            f"DELETE FROM {table} WHERE meter_no = {{meter_no:UInt32}} AND revision = {{revision:UInt32}}",  # noqa: S608
            parameters={"meter_no": meter_no, "revision": revision},
            settings={"lightweight_deletes_sync": 0},
        )


def _stream(client: Client, query: str, parameters: dict[str, Any]) -> Iterator[Table]:
    settings = {
        "max_block_size": ROWS_A_BLOCK,
        "preferred_block_size_bytes": BYTES_A_BLOCK,
        "optimize_read_in_order": 1,
        "output_format_arrow_string_as_string": 1,
        "output_format_arrow_low_cardinality_as_dictionary": 0,
    }
    with client.query_arrow_stream(query, parameters=parameters, settings=settings) as blocks:
        for block in blocks:
            yield block if isinstance(block, pa.Table) else pa.Table.from_batches([block])
