"""Frames: what polars adds up is what plain decimals add up."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.charges import Price, parse_price
from pricing.frames import usages
from pricing.rating import quote
from schemas.errors import InvariantBroken
from schemas.money import EXACT

SCHEMA = {"line": pl.String, "window_start": pl.Datetime("us", "UTC"), "value": pl.Decimal(38, 12), "r": pl.String}
START = datetime(2026, 3, 27, tzinfo=UTC)  # clocks change in Berlin on the 29th

PRICES = {
    "plain": parse_price({"model": "per_unit", "unit_amount": "0.3"}),
    "matrix": parse_price(
        {
            "model": "matrix",
            "dimensions": ["r", "absent"],
            "cells": [{"match": {"r": "a"}, "unit_amount": "2"}],
            "default_unit_amount": "1",
        }
    ),
    "daily": parse_price(
        {"model": "package", "package_size": "7", "package_amount": "1", "bucket": "day", "bucket_aggregation": "max"}
    ),
    "hourly": parse_price(
        {"model": "package", "package_size": "7", "package_amount": "1", "bucket": "hour", "bucket_aggregation": "sum"}
    ),
    "grid": parse_price(
        {
            "model": "matrix",
            "dimensions": ["r"],
            "cells": [{"match": {"r": "a"}, "unit_amount": "2"}],
            "default_unit_amount": "1",
            "bucket": "day",
            "bucket_aggregation": "min",
        }
    ),
}

#: Small values, and values whose sums pass what 128 bits hold.
VALUES = st.one_of(st.decimals(-1000, 1000, places=12), st.decimals(-(10**26) + 1, 10**26 - 1, places=12))
ROWS = st.lists(
    st.tuples(
        st.sampled_from(sorted(PRICES)),
        st.integers(0, 96).map(lambda hours: START + timedelta(hours=hours)),
        VALUES,
        st.sampled_from(["a", "b", None]),
    ),
    max_size=30,
)


def frame(rows: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def plainly(name: str, price: Price, rows: list[Any], timezone: str) -> Decimal:
    """The cost of a line, grouped and added in a loop."""
    combine: Any = {"max": max, "min": min, "sum": EXACT.add, None: EXACT.add}
    how = price.bucket_aggregation.value if price.bucket_aggregation else None
    parts: dict[Any, Decimal] = {}
    for line, at, value, region in rows:
        if line == name:
            local = at.astimezone(ZoneInfo(timezone))
            bucket = {"day": local.date(), "hour": at.replace(minute=0), None: None}[
                price.bucket.value if price.bucket else None
            ]
            group = region if name in ("matrix", "grid") else None
            key = (bucket, group)
            parts[key] = combine[how](parts[key], value) if key in parts else value
    if name in ("matrix", "grid"):
        cost = Decimal(0)
        for (_, region), value in parts.items():
            cost = EXACT.add(cost, EXACT.multiply(value, Decimal(2 if region == "a" else 1)))
        return cost
    if price.bucket is None:
        return quote(price, currency="USD", quantity=parts.get((None, None), Decimal(0))).exact
    return quote(price, currency="USD", buckets=list(parts.values())).exact


@settings(max_examples=2 * settings.default.max_examples)
@given(ROWS, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]))
def test_frames_cost_what_plain_decimals_cost(rows: list[Any], timezone: str) -> None:
    found = usages(frame(rows), PRICES, timezone)
    assert list(found) == list(PRICES)
    for name, price in PRICES.items():
        usage = found[name]
        exact = quote(price, currency="USD", quantity=usage.quantity, groups=usage.groups, buckets=usage.buckets).exact
        assert exact == plainly(name, price, rows, timezone)


def test_sums_beyond_128_bits_are_exact_where_polars_would_wrap() -> None:
    largest = Decimal("99999999999999999999999999.999999999999")
    rows = frame([("plain", START, largest, None)] * 2)
    twice = EXACT.multiply(largest, Decimal(2))
    wrapped = rows.group_by("line").agg(pl.col("value").sum()).item(0, "value")
    assert wrapped != twice, "polars adds wide enough now: the guard may go"
    assert usages(rows, PRICES)["plain"].quantity == twice


@pytest.mark.parametrize(
    ("bucket", "edges"),
    [
        ("month", ["2026-01-31T23:00", "2026-02-01T00:00"]),
        ("quarter", ["2026-03-31T23:00", "2026-04-01T00:00"]),
        ("half_year", ["2026-06-30T23:00", "2026-07-01T00:00"]),
        ("year", ["2026-12-31T23:00", "2027-01-01T00:00"]),
        ("week", ["2026-03-29T23:00", "2026-03-30T00:00"]),
    ],
)
def test_buckets_turn_with_the_local_calendar(bucket: str, edges: list[str]) -> None:
    price = parse_price({"model": "per_unit", "unit_amount": "1", "bucket": bucket, "bucket_aggregation": "sum"})
    zone = ZoneInfo("America/New_York")
    rows = [
        ("x", datetime.fromisoformat(edge).replace(tzinfo=zone), Decimal(n + 1), None) for n, edge in enumerate(edges)
    ]
    found = usages(frame(rows), {"x": price}, "America/New_York")["x"]
    assert found.buckets == [1, 2]


def test_what_does_not_follow_from_parts_must_come_as_whole_buckets() -> None:
    price = parse_price(
        {"model": "per_unit", "unit_amount": "1", "bucket": "day", "bucket_aggregation": "unique_count"}
    )
    row = ("x", START, Decimal(5), None)
    assert usages(frame([row]), {"x": price})["x"].buckets == [5]
    with pytest.raises(InvariantBroken):
        usages(frame([row, row]), {"x": price})


@pytest.mark.parametrize(
    "windows",
    [
        frame([]).with_columns(pl.col("value").cast(pl.Float64)),
        frame([]).with_columns(pl.col("value").cast(pl.Decimal(38, 13))),
        frame([]).with_columns(pl.col("window_start").dt.replace_time_zone(None)),
        frame([]).drop("value"),
        frame([("unknown", START, Decimal(1), None)]),
        frame([("plain", START, None, None)]),
    ],
    ids=str,
)
def test_a_frame_of_another_shape_is_refused(windows: pl.DataFrame) -> None:
    with pytest.raises(InvariantBroken):
        usages(windows, PRICES)


def test_sums_are_not_enough_for_prices_of_transactions() -> None:
    price = parse_price({"model": "percentage", "rate": "1", "fixed_amount": "1"})
    with pytest.raises(InvariantBroken):
        usages(frame([]), {"x": price})
