"""Judged batches as rows of the ClickHouse tables."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.attributed import Attributed, Contribution, Status
from flows.combine import Minutes
from flows.events import Events, Rows
from flows.fields import SCALE
from schemas.catalogue import MeterEntry
from schemas.instants import MINUTE_MICROS, to_micros
from schemas.meters import BY_VALUE, Aggregation

Table = Any  # a pyarrow.Table: pyarrow publishes no types

SECOND_MICROS = 1_000_000
AS_IT_CAME = -1  # change_offset of an event that nothing has changed
DECIMAL = pa.decimal256(76, 12)
DECIMAL_BYTES = 32  # of decimal256, two's complement, little-endian
NEGATIVE = (1 << 64) - 1  # the upper words of a negative number
HALF_BITS = 20  # half of the bits of the `whole` of a value: see `fields.MAX_WHOLE`
UTC_MICROS = pa.timestamp("us", "UTC")
UTC_SECONDS = pa.timestamp("s", "UTC")


def event_rows(judged: Attributed, *, shard: int, seq: int, judged_at: datetime) -> Table:
    """First copies, with what became of them."""
    codes = ["", *sorted(set(judged.codes.values()))]
    code_of = np.zeros(len(judged.events), np.int32)
    for row, code in judged.codes.items():
        code_of[row] = codes.index(code)
    columns = _log_columns(judged.events, shard=shard, seq=seq)
    n = len(judged.events)
    offsets = np.full(n, AS_IT_CAME, np.int64) if judged.change_offsets is None else judged.change_offsets
    columns["change_offset"] = pa.array(offsets)
    columns["judged_at"] = pa.array(np.full(n, to_micros(judged_at), np.int64)).cast(UTC_MICROS)
    effects = (judged.status != Status.QUARANTINED).astype(np.int8) if judged.effects is None else judged.effects
    columns["effect"] = pa.array(effects)
    columns["customer_no"] = pa.array(judged.customers)
    columns["status"] = pa.array([status.name.lower() for status in Status]).take(pa.array(judged.status - 1))
    columns["code"] = pa.array(codes).take(pa.array(code_of))
    return pa.table(columns)


def copy_rows(events: Events, *, shard: int, seq: int) -> Table:
    """Later copies, whole."""
    return pa.table(_log_columns(events, shard=shard, seq=seq))


def _log_columns(events: Events, *, shard: int, seq: int) -> dict[str, Any]:
    n = len(events)
    types = pa.array([name for _, name in events.kinds], pa.string())
    return {
        "tenant_no": pa.array(events.tenants),
        "hash": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), n, [None, pa.py_buffer(np.ascontiguousarray(events.words))]
        ),
        "kafka_partition": pa.array(events.partitions),
        "kafka_offset": pa.array(events.offsets),
        "kafka_index": pa.array(events.indexes),
        "shard": pa.array(np.full(n, shard, np.uint16)),
        "seq": pa.array(np.full(n, seq, np.uint64)),
        "received_at": pa.array(events.received_at).cast(UTC_MICROS),
        "occurred_at": pa.array(events.occurred_at).cast(UTC_MICROS),
        "untimed": pa.array(events.untimed),
        "source": events.sources,
        "id": events.ids,
        "type": types.take(pa.array(events.kind_codes)),
        "subject": events.subjects,
        "data": events.data,
        "extensions": events.extensions,
    }


def usage_rows(judged: Attributed, combined: list[Minutes], *, shard: int, seq: int) -> Table | None:
    """Partials of all meters; None when no meter took anything."""
    if not combined:
        return None
    texts = pa.array(list(judged.texts), pa.string())
    return pa.concat_tables([_minute_rows(minutes, texts, shard=shard, seq=seq) for minutes in combined])


def _minute_rows(minutes: Minutes, texts: Any, *, shard: int, seq: int) -> Table:
    n = len(minutes.units)
    counts = minutes.meter.aggregation is Aggregation.COUNT
    return pa.table(
        {
            "meter_no": pa.array(np.full(n, minutes.meter.meter_no, np.uint32)),
            "revision": pa.array(np.full(n, minutes.meter.revision, np.uint32)),
            "customer_no": pa.array(minutes.customers),
            "minute": pa.array(minutes.minutes * (MINUTE_MICROS // SECOND_MICROS)).cast(UTC_SECONDS),
            "group_values": _group_values(minutes.groups, n, texts),
            "shard": pa.array(np.full(n, shard, np.uint16)),
            "seq": pa.array(np.full(n, seq, np.uint64)),
            "event_count": pa.array(minutes.counts),
            "total": _small_decimals(np.zeros(n, np.int64)) if counts else _decimals(minutes.units),
        }
    )


def value_rows(judged: Attributed, *, shard: int, seq: int) -> Table | None:
    """What meters of BY_VALUE took, one row an event, as `usage_values` has them; None when they took nothing."""
    taken = [contribution for contribution in judged.contributions if contribution.meter.aggregation in BY_VALUE]
    giants = [giant for giant in judged.giants if giant.meter.aggregation in BY_VALUE]
    if not taken and not giants:
        return None
    texts = pa.array(list(judged.texts), pa.string())
    tables = [
        _values(judged, c.meter, c.rows, c.groups, texts, c.texts, _decimals_of(c), shard=shard, seq=seq) for c in taken
    ]
    for giant in giants:
        rows = np.array([giant.row], np.int64)
        groups = [np.array([code], np.int64) for code in giant.groups]
        value = _decimals([giant.units])
        tables.append(_values(judged, giant.meter, rows, groups, texts, None, value, shard=shard, seq=seq))
    return pa.concat_tables(tables)


def _values(
    judged: Attributed,
    meter: MeterEntry,
    rows: Rows,
    groups: list[NDArray[np.int64]],
    texts: Any,
    text_codes: NDArray[np.int64] | None,
    values: Any,
    *,
    shard: int,
    seq: int,
) -> Table:
    """Rows of one meter; `groups` and `text_codes` index `texts`."""
    events, n = judged.events, len(rows)
    return pa.table(
        {
            "meter_no": pa.array(np.full(n, meter.meter_no, np.uint32)),
            "revision": pa.array(np.full(n, meter.revision, np.uint32)),
            "customer_no": pa.array(judged.customers[rows]),
            "occurred_at": pa.array(events.occurred_at[rows]).cast(UTC_MICROS),
            "group_values": _group_values(groups, n, texts),
            "received_at": pa.array(events.received_at[rows]).cast(UTC_MICROS),
            "kafka_partition": pa.array(events.partitions[rows]),
            "kafka_offset": pa.array(events.offsets[rows]),
            "kafka_index": pa.array(events.indexes[rows]),
            "effect": pa.array(judged.effects_of(rows)),
            "shard": pa.array(np.full(n, shard, np.uint16)),
            "seq": pa.array(np.full(n, seq, np.uint64)),
            "value": values,
            "text": pa.repeat(pa.scalar("", pa.string()), n)
            if text_codes is None
            else texts.take(pa.array(text_codes)),
        }
    )


def _group_values(groups: list[NDArray[np.int64]], n: int, texts: Any) -> Any:
    """The groups of n rows as lists of texts."""
    ends = pa.array(np.arange(n + 1, dtype=np.int32) * len(groups))
    codes = np.stack(groups, axis=1).reshape(-1) if groups else np.zeros(0, np.int64)
    return pa.ListArray.from_arrays(ends, texts.take(pa.array(codes)))


def _decimals(units: list[int]) -> Any:
    """Exact units of 10^-12 as decimals of 76 digits."""
    try:
        return _small_decimals(np.array(units, np.int64))
    except OverflowError:
        pass  # one of them takes more than 64 bits
    blob = b"".join([unit.to_bytes(DECIMAL_BYTES, "little", signed=True) for unit in units])
    return pa.Decimal256Array.from_buffers(DECIMAL, len(units), [None, pa.py_buffer(blob)])


def _small_decimals(units: NDArray[np.int64]) -> Any:
    words = np.empty((len(units), DECIMAL_BYTES // 8), np.int64)
    words[:, 0] = units
    words[:, 1:] = (units >> 63)[:, np.newaxis]  # the sign
    return pa.Decimal256Array.from_buffers(DECIMAL, len(units), [None, pa.py_buffer(words)])


def _decimals_of(taken: Contribution) -> Any:
    """whole x 10^12 + part, without a Python integer for each: by halves of `whole`, so that nothing leaves 64 bits."""
    high, low = taken.whole >> HALF_BITS, taken.whole & ((1 << HALF_BITS) - 1)
    upper, lower = high * SCALE, low * SCALE + taken.part  # below 2^60 both, since whole is below 2^40
    words = np.empty((len(taken.rows), DECIMAL_BYTES // 8), np.uint64)
    words[:, 0] = (upper << HALF_BITS).view(np.uint64) + lower.view(np.uint64)
    carry = words[:, 0] < lower.view(np.uint64)
    words[:, 1] = ((upper >> (64 - HALF_BITS)) + carry).view(np.uint64)
    words[:, 2:] = np.where(words[:, 1:2].view(np.int64) < 0, np.uint64(NEGATIVE), np.uint64(0))
    return pa.Decimal256Array.from_buffers(DECIMAL, len(taken.rows), [None, pa.py_buffer(words)])


def count_by_status(status: NDArray[np.int8]) -> dict[str, int]:
    """Events in each state, by its name."""
    counts = np.bincount(status, minlength=len(Status) + 1).tolist()
    return {state.name.lower(): counts[state] for state in Status}
