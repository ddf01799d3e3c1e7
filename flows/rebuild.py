"""Counting the past by one meter: stored facts are judged again, and give window rows under their original batches.

The rows are a function of the facts of a (shard, seq), as those of the flow are: what the flow wrote already it is
written once more, and the two collapse. So a rebuild may begin anywhere again, and may be done twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.attribute import Attributed, judge
from flows.combine import combine
from flows.events import Events
from flows.rows import usage_rows, value_rows
from infra.clickhouse.client import Client
from infra.clickhouse.past import Hour, Selection, fact_blocks, hour_blocks
from infra.clickhouse.sink import insert_table
from infra.crash_points import crash_point
from schemas.catalogue import MeterEntry

Table = Any  # a pyarrow.Table: pyarrow publishes no types

#: What is held and judged at once; a customer's hour, and in a larger hour a batch, is never cut.
CHUNK_ROWS = 100_000
CHUNK_BYTES = 32 * 1024 * 1024
HOUR_SECONDS = 3600
SHARD_BITS = 48  # a batch's number is far below 2^48, a shard's below 2^16

#: Called after each chunk: facts counted by now, and the hour to go on from should this be the last.
Progress = Callable[[int, Hour], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Facts with all others of their batches in the same minutes. `after`: all before this hour has come by now.

    `in_hour`: the facts are a part of the hour `after` itself, which is too large; else they lie before it.
    """

    facts: Table
    after: Hour
    in_hour: bool = False


def count_past(
    client: Client, *, meter: MeterEntry, selection: Selection, start: Hour | None, progress: Progress
) -> int:
    """Write the meter's windows of the selected facts, from the hour `start` on; how many facts there were.

    Raises what `progress` raises, InvariantBroken, or ClickHouseError; what was written by then is right.
    """
    counted = 0
    for chunk in chunks(client, selection, start=start):
        for table, rows in window_rows(meter, selection.tenant_no, chunk.facts).items():
            insert_table(client, table, rows, token=f"rebuild:{uuid4()}")
        crash_point("rebuild.inserted")
        counted += chunk.facts.num_rows
        progress(counted, chunk.after)
    return counted


def window_rows(meter: MeterEntry, tenant_no: int, facts: Table) -> dict[str, Table]:
    """The window rows that a meter makes of facts, by table; each under the (shard, seq) of its fact.

    All facts of one (shard, seq), customer and minute must be among them, or none.
    """
    owners = _Owners(facts)
    judged = judge(
        _events(meter, tenant_no, facts), owners.codes, {(tenant_no, meter.event_type): (meter,)}, decided=True
    )
    judged.effects = _numbers(facts, "effect").astype(np.int8)
    return {table: owners.restore(rows) for table, rows in _rows(judged).items()}


def _rows(judged: Attributed) -> dict[str, Table]:
    tables = {
        "usage_minutes": usage_rows(judged, combine(judged), shard=0, seq=0),
        "usage_values": value_rows(judged, shard=0, seq=0),
    }
    return {name: rows for name, rows in tables.items() if rows is not None}


class _Owners:
    """Stands a code, from 1, for each (customer, shard, seq): the flow's functions then tell apart by it what a batch
    of theirs has apart already."""

    def __init__(self, facts: Table) -> None:
        customers = _numbers(facts, "customer_no").astype(np.uint64)
        batches = (_numbers(facts, "shard").astype(np.uint64) << np.uint64(SHARD_BITS)) | _numbers(facts, "seq").astype(
            np.uint64
        )
        of_customer, customer_codes = np.unique(customers, return_inverse=True)
        of_batch, batch_codes = np.unique(batches, return_inverse=True)
        pairs, codes = np.unique(customer_codes * len(of_batch) + batch_codes, return_inverse=True)
        self._customers = of_customer[pairs // len(of_batch)]
        self._batches = of_batch[pairs % len(of_batch)]
        self.codes: NDArray[np.uint64] = (codes + 1).astype(np.uint64)

    def restore(self, rows: Table) -> Table:
        """The rows with customer, shard and seq in the place of codes."""
        places = _numbers(rows, "customer_no").astype(np.int64) - 1
        batches = self._batches[places]
        columns = {
            "customer_no": self._customers[places],
            "shard": (batches >> np.uint64(SHARD_BITS)).astype(np.uint16),
            "seq": batches & np.uint64((1 << SHARD_BITS) - 1),
        }
        for name, values in columns.items():
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
        return rows


def _events(meter: MeterEntry, tenant_no: int, facts: Table) -> Events:
    """Facts as the flow has events. What no meter looks at stays empty."""
    n = facts.num_rows
    nothing = pa.repeat(pa.scalar("", pa.string()), n)
    return Events(
        tenants=np.full(n, tenant_no, np.uint32),
        words=np.zeros((n, 2), np.uint64),
        partitions=_numbers(facts, "kafka_partition").astype(np.uint16),
        offsets=_numbers(facts, "kafka_offset").astype(np.int64),
        indexes=_numbers(facts, "kafka_index").astype(np.uint32),
        received_at=_numbers(facts, "received_micros").astype(np.int64),
        occurred_at=_numbers(facts, "occurred_micros").astype(np.int64),
        untimed=np.zeros(n, np.bool_),
        kinds=[(tenant_no, meter.event_type)],
        kind_codes=np.zeros(n, np.int64),
        sources=nothing,
        ids=nothing,
        subjects=nothing,
        data=facts["data"].cast(pa.string()).combine_chunks(),
        extensions=nothing,
    )


def _numbers(facts: Table, name: str) -> NDArray[Any]:
    return facts[name].to_numpy()


def chunks(client: Client, selection: Selection, *, start: Hour | None) -> Iterator[Chunk]:
    """The selected facts in chunks of whole hours of customers. An hour too large for one comes by whole batches."""
    while True:
        held: list[Table] = []
        too_large: Hour | None = None
        for block in _pieces(fact_blocks(client, selection, start=start)):
            held.append(block)
            if not _is_full(held):
                continue
            facts = pa.concat_tables(held)
            last = _last_hour(facts)
            whole = _rows_before(facts, ("customer_no", last.customer_no), ("hour", last.start))
            if whole == 0:
                too_large = last
                break
            yield Chunk(facts=facts.slice(0, whole), after=last)
            held = [facts.slice(whole)]
        if too_large is None:
            if held:
                facts = pa.concat_tables(held)
                last = _last_hour(facts)
                yield Chunk(facts=facts, after=Hour(last.customer_no, last.start + HOUR_SECONDS))
            return
        yield from _hour_chunks(client, selection, too_large)
        start = Hour(too_large.customer_no, too_large.start + HOUR_SECONDS)


def _hour_chunks(client: Client, selection: Selection, hour: Hour) -> Iterator[Chunk]:
    held: list[Table] = []
    for block in _pieces(hour_blocks(client, selection, hour)):
        held.append(block)
        if not _is_full(held):
            continue
        facts = pa.concat_tables(held)
        last = facts.num_rows - 1
        whole = _rows_before(facts, ("shard", facts["shard"][last].as_py()), ("seq", facts["seq"][last].as_py()))
        if whole:
            yield Chunk(facts=facts.slice(0, whole), after=hour, in_hour=True)
            held = [facts.slice(whole)]
    if held:
        yield Chunk(facts=pa.concat_tables(held), after=hour, in_hour=True)


def _pieces(blocks: Iterator[Table]) -> Iterator[Table]:
    """The blocks, none of them larger than a chunk: how many rows come at once is the server's affair."""
    for block in blocks:
        for first in range(0, block.num_rows, CHUNK_ROWS):
            yield block.slice(first, CHUNK_ROWS)


def _is_full(held: list[Table]) -> bool:
    return sum(table.num_rows for table in held) >= CHUNK_ROWS or sum(table.nbytes for table in held) >= CHUNK_BYTES


def _last_hour(facts: Table) -> Hour:
    last = facts.num_rows - 1
    return Hour(facts["customer_no"][last].as_py(), facts["hour"][last].as_py())


def _rows_before(facts: Table, *key: tuple[str, int]) -> int:
    """How many rows stand before those of this key, which are the last."""
    same = [_numbers(facts, name) == value for name, value in key]
    return int(np.argmax(np.logical_and.reduce(same)))
