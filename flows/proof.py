"""The proof of a meter: its stored windows are the rows that the flow's own functions make of its stored facts.

Both sides are read in the order of (customer, hour) and compared hour by hour of customers, up to the batch that every
shard has stored in full. Memory is bounded: a range of hours is known by the number and the hashes of its rows, and
the rows themselves are kept only while they are few.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute

from flows.rebuild import chunks, window_rows
from infra.clickhouse.client import Client
from infra.clickhouse.past import WINDOW_COLUMNS, Hour, Selection, window_blocks
from schemas.catalogue import MeterEntry
from schemas.meters import BY_VALUE

Table = Any  # a pyarrow.Table: pyarrow publishes no types
pc: Any = pyarrow.compute

MAX_ROWS_KEPT = 200_000  # of one range of hours, to say which of them differ
MAX_EXAMPLES = 10
BETWEEN = "\x1f"  # parts of a row as text

_FIRST = Hour(0, 0)


@dataclass(slots=True)
class Proof:
    """What a proof found. `drifted` rows are missing, too many or different; a row that is different counts twice."""

    events: int = 0
    windows: int = 0
    drifted: int = 0
    examples: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        return self.drifted == 0


def prove_meter(client: Client, *, meter: MeterEntry, selection: Selection, beat: Callable[[], None]) -> Proof:
    """Compare the windows of the meter's revision with its facts, of the batches that are selected.

    `beat` is called after each chunk. Raises what it raises, or ClickHouseError.
    """
    table = "usage_values" if meter.aggregation in BY_VALUE else "usage_minutes"
    proof = Proof()
    low, expected = _FIRST, _Rows()
    for chunk in chunks(client, selection, start=None):
        proof.events += chunk.facts.num_rows
        rows = window_rows(meter, selection.tenant_no, chunk.facts).get(table)
        proof.windows += 0 if rows is None else rows.num_rows
        if not chunk.in_hour:
            expected.add(rows, table)
        if chunk.after > low:
            _compare(client, proof, meter, selection, table, expected, low, chunk.after)
            low, expected = chunk.after, _Rows()
        if chunk.in_hour:
            expected.add(rows, table)
        beat()
    _compare(client, proof, meter, selection, table, expected, low, None)
    return proof


def _compare(
    client: Client,
    proof: Proof,
    meter: MeterEntry,
    selection: Selection,
    table: str,
    expected: "_Rows",
    low: Hour,
    high: Hour | None,
) -> None:
    stored = _Rows()
    for block in window_blocks(client, table, meter=meter, selection=selection, low=low, high=high):
        stored.add(block, table)
    if (expected.count, expected.hashes) == (stored.count, stored.hashes):
        return
    differing = expected.differing(stored)
    if differing is None:
        proof.drifted += max(1, abs(expected.count - stored.count))
        proof.examples.append(f"from customer {low.customer_no} on: {stored.count} rows, not {expected.count}")
    else:
        missing, extra = differing
        proof.drifted += len(missing) + len(extra)
        proof.examples += [f"missing: {row}" for row in _shown(missing)] + [f"too many: {row}" for row in _shown(extra)]
    del proof.examples[MAX_EXAMPLES:]


def _shown(rows: Iterable[str]) -> list[str]:
    return [row.replace(BETWEEN, " ")[:300] for row in sorted(rows)[:MAX_EXAMPLES]]


class _Rows:
    """Rows of windows, in any order: how many, the sum of their hashes, and the rows while they are few."""

    def __init__(self) -> None:
        self.count = 0
        self.hashes = 0
        self.kept: set[str] | None = set()

    def add(self, rows: Table | None, table: str) -> None:
        """Take in rows of this table; None: none."""
        if rows is None:
            return
        texts = _texts(rows, WINDOW_COLUMNS[table])
        self.count += rows.num_rows
        hashes = pl.Series(texts).hash().to_numpy()
        self.hashes = (self.hashes + int(np.add.reduce(hashes, dtype=np.uint64))) % (1 << 64)
        if self.kept is not None:
            self.kept.update(texts)
            if len(self.kept) > MAX_ROWS_KEPT:
                self.kept = None

    def differing(self, stored: "_Rows") -> tuple[set[str], set[str]] | None:
        """(missing, too many) of what is stored; None: there are too many to tell."""
        if self.kept is None or stored.kept is None:
            return None
        return self.kept - stored.kept, stored.kept - self.kept


def _texts(rows: Table, columns: Iterable[str]) -> list[str]:
    """Each row as one text, the same for the same row whoever made it."""
    parts = [_column_texts(rows[name].combine_chunks()) for name in columns]
    return pc.binary_join_element_wise(*parts, BETWEEN).to_pylist()


def _column_texts(column: Any) -> Any:
    if pa.types.is_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), "\x1e")
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).cast(pa.string())
    return column.cast(pa.string())
