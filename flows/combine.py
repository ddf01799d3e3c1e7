"""What meters took from a batch, combined to minutes: one partial a (meter, customer, group, minute)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.attribute import Attributed, Contribution
from flows.fields import SCALE
from schemas.catalogue import MeterEntry
from schemas.instants import MINUTE_MICROS


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
    """Partials of every meter that took something, each key once."""
    numbers = sorted({c.meter.meter_no for c in judged.contributions} | {g.meter.meter_no for g in judged.giants})
    by_meter: dict[int, list[Contribution]] = {
        number: list(found)
        for number, found in groupby(
            sorted(judged.contributions, key=lambda c: c.meter.meter_no), key=lambda c: c.meter.meter_no
        )
    }
    return [_with_giants(judged, number, by_meter.get(number, [])) for number in numbers]


def _sums(judged: Attributed, contributions: Sequence[Contribution]) -> Minutes:
    """Sums of ordinary values: whole and part apart, each exact in 64 bits (see `fields.MAX_WHOLE`)."""
    meter = contributions[0].meter
    rows = np.concatenate([c.rows for c in contributions])
    names = [f"g{index}" for index in range(len(meter.group_by))]
    columns = {
        "customer": judged.customers[rows],
        "minute": judged.events.occurred_at[rows] // MINUTE_MICROS,
        **{name: np.concatenate([c.groups[index] for c in contributions]) for index, name in enumerate(names)},
        "whole": np.concatenate([c.whole for c in contributions]),
        "part": np.concatenate([c.part for c in contributions]),
    }
    grouped = (
        pl.DataFrame(columns)
        .group_by(["customer", "minute", *names])
        .agg(pl.len().alias("count"), pl.col("whole").sum(), pl.col("part").sum())
    )
    wholes, parts = grouped["whole"].to_list(), grouped["part"].to_list()
    return Minutes(
        meter=meter,
        customers=grouped["customer"].to_numpy(),
        minutes=grouped["minute"].to_numpy(),
        groups=[grouped[name].to_numpy() for name in names],
        counts=grouped["count"].to_numpy().astype(np.int64),
        units=[whole * SCALE + part for whole, part in zip(wholes, parts, strict=True)],
    )


def _with_giants(judged: Attributed, meter_no: int, contributions: Sequence[Contribution]) -> Minutes:
    giants = [giant for giant in judged.giants if giant.meter.meter_no == meter_no]
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
        total[0] += 1
        total[1] += giant.units
    return Minutes(
        meter=meter,
        customers=np.array([customer for customer, _, _ in totals], np.uint64),
        minutes=np.array([minute for _, minute, _ in totals], np.int64),
        groups=[np.array([group[index] for _, _, group in totals], np.int64) for index in range(len(meter.group_by))],
        counts=np.array([count for count, _ in totals.values()], np.int64),
        units=[units for _, units in totals.values()],
    )
