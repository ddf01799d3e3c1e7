"""What meters that add up took from a batch, combined to minutes: one partial a (meter, customer, group, minute).

Meters that don't (`schemas.meters.BY_VALUE`) keep their values one by one: see `rows.value_rows`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.attributed import Attributed, Contribution, Giant
from flows.fields import SCALE
from schemas.catalogue import MeterEntry, meter_key
from schemas.instants import MINUTE_MICROS
from schemas.meters import ADDITIVE

#: Below these, whole x SCALE and part fill half of 64 bits each, so that their sum fits.
FEW_PARTS = 1 << 62
FEW_WHOLES = FEW_PARTS // SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Minutes:
    """Partials of one meter. `minutes` count from 1970; `units` are exact, of 10^-12; group codes as attributed."""

    meter: MeterEntry
    customers: NDArray[np.uint64]
    minutes: NDArray[np.int64]
    groups: list[NDArray[np.int64]]
    counts: NDArray[np.int64]
    units: list[int]


def combine(judged: Attributed) -> list[Minutes]:
    """Partials of every meter that adds up and took something, each key once. Values of -1 events are taken off."""
    by_meter: dict[str, tuple[list[Contribution], list[Giant]]] = {}
    for taken in judged.contributions:
        if taken.meter.aggregation in ADDITIVE:
            by_meter.setdefault(meter_key(taken.meter), ([], []))[0].append(taken)
    for giant in judged.giants:
        if giant.meter.aggregation in ADDITIVE:
            by_meter.setdefault(meter_key(giant.meter), ([], []))[1].append(giant)
    return [_with_giants(judged, *taken) for _, taken in sorted(by_meter.items())]


def _sums(judged: Attributed, contributions: Sequence[Contribution]) -> Minutes:
    """Sums of ordinary values: whole and part apart, each exact in 64 bits (see `fields.MAX_WHOLE`)."""
    meter = contributions[0].meter
    rows = np.concatenate([c.rows for c in contributions])
    keys = {
        "customer": judged.customers[rows],
        "minute": judged.events.occurred_at[rows] // MINUTE_MICROS,
    } | {f"g{index}": np.concatenate([c.groups[index] for c in contributions]) for index in range(len(meter.group_by))}
    packing = _packing(keys)
    values = {
        "whole": np.concatenate([c.whole for c in contributions]),
        "part": np.concatenate([c.part for c in contributions]),
    }
    count = pl.len()
    if judged.effects is not None:
        effects = judged.effects[rows].astype(np.int64)
        values = {"effect": effects} | {name: column * effects for name, column in values.items()}
        count = pl.col("effect").sum()
    columns = keys if packing is None else {"packed": _pack(keys, packing)}
    grouped = (
        pl.DataFrame(columns | values)
        .group_by(list(columns))
        .agg(count.alias("count"), pl.col("whole").sum(), pl.col("part").sum())
    )
    if packing is None:
        found = {name: grouped[name].to_numpy() for name in keys}
    else:
        found = _unpack(grouped["packed"].to_numpy(), packing)
    return Minutes(
        meter=meter,
        customers=found.pop("customer").astype(np.uint64),
        minutes=found.pop("minute"),
        groups=list(found.values()),
        counts=grouped["count"].to_numpy().astype(np.int64),
        units=_units(grouped["whole"].to_numpy(), grouped["part"].to_numpy()),
    )


def _units(wholes: NDArray[np.int64], parts: NDArray[np.int64]) -> list[int]:
    """wholes x SCALE + parts, exact: in 64 bits where all of them fit."""
    if _fits(wholes, FEW_WHOLES) and _fits(parts, FEW_PARTS):
        return (wholes * SCALE + parts).tolist()
    return [whole * SCALE + part for whole, part in zip(wholes.tolist(), parts.tolist(), strict=True)]


def _fits(column: NDArray[np.int64], limit: int) -> bool:
    return -limit < int(column.min()) and int(column.max()) < limit


#: By name of a key column: its least value, and how many values fit between that and its greatest.
Packing = dict[str, tuple[int, int]]


def _packing(keys: dict[str, NDArray[Any]]) -> Packing | None:
    """How the key columns fit one 64-bit number (polars groups by one key twice as fast); None: they don't."""
    packing = {name: (int(column.min()), int(column.max()) - int(column.min()) + 1) for name, column in keys.items()}
    return packing if prod(width for _, width in packing.values()) < 1 << 62 else None


def _pack(keys: dict[str, NDArray[Any]], packing: Packing) -> NDArray[np.int64]:
    packed = np.zeros(len(keys["customer"]), np.int64)
    for name, (least, width) in packing.items():
        packed = packed * width + (keys[name].astype(np.int64) - least)
    return packed


def _unpack(packed: NDArray[np.int64], packing: Packing) -> dict[str, NDArray[np.int64]]:
    """The key columns, in the order of the packing."""
    found: dict[str, NDArray[np.int64]] = {}
    for name, (least, width) in reversed(packing.items()):
        packed, rest = np.divmod(packed, width)
        found[name] = rest + least
    return {name: found[name] for name in packing}


def _with_giants(judged: Attributed, contributions: Sequence[Contribution], giants: Sequence[Giant]) -> Minutes:
    if not giants:
        return _sums(judged, contributions)
    meter = giants[0].meter
    totals: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    if contributions:
        ordinary = _sums(judged, contributions)
        codes = list(zip(*(g.tolist() for g in ordinary.groups), strict=True)) or [()] * len(ordinary.units)
        for customer, minute, group, count, units in zip(
            ordinary.customers.tolist(),
            ordinary.minutes.tolist(),
            codes,
            ordinary.counts.tolist(),
            ordinary.units,
            strict=True,
        ):
            totals[customer, minute, group] = [count, units]
    for giant in giants:
        minute = int(judged.events.occurred_at[giant.row]) // MINUTE_MICROS
        total = totals.setdefault((int(judged.customers[giant.row]), minute, giant.groups), [0, 0])
        effect = judged.effect_of(giant.row)
        total[0] += effect
        total[1] += effect * giant.units
    return Minutes(
        meter=meter,
        customers=np.array([customer for customer, _, _ in totals], np.uint64),
        minutes=np.array([minute for _, minute, _ in totals], np.int64),
        groups=[np.array([group[index] for _, _, group in totals], np.int64) for index in range(len(meter.group_by))],
        counts=np.array([count for count, _ in totals.values()], np.int64),
        units=[units for _, units in totals.values()],
    )
