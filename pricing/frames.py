"""Usage windows in a polars frame to the `Usage` of each price line: polars groups and adds, `decimal` multiplies.

A frame has a row for each window: `line` (text: which price line the window belongs to), `window_start` (datetime with
a timezone), `value` (Decimal with at most 12 decimals), and a text column for each dimension of a matrix.
polars adds groups in 128 bits and wraps in silence when they are full: sums that come near are left to `decimal`.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import cast

import polars as pl

from pricing.charges import Bucket, Price
from pricing.explain import ZERO
from pricing.matrix import Group, Matrix
from pricing.models import Percentage
from pricing.periods import zone
from pricing.usage import Usage
from schemas.errors import InvariantBroken
from schemas.meters import Aggregation
from schemas.money import MAX_SCALE, exactly

MAX_ROWS = 10_000_000

#: Sums below this many units of the last decimal surely fit into 128 bits.
SAFE_UNITS = 10**37

TRUNCATE: Mapping[Bucket, str] = {
    Bucket.MINUTE: "1m",
    Bucket.HOUR: "1h",
    Bucket.DAY: "1d",
    Bucket.WEEK: "1w",
    Bucket.MONTH: "1mo",
    Bucket.QUARTER: "1q",
    Bucket.HALF_YEAR: "6mo",
    Bucket.YEAR: "1y",
}


@exactly
def usages(windows: pl.DataFrame, prices: Mapping[str, Price], timezone: str = "UTC") -> dict[str, Usage]:
    """The usage of every price line; one without windows has used 0. Buckets are those of the timezone's calendar.

    Raises InvariantBroken for a frame of another shape, for rows of unknown lines, for transactions that were added up
    although the price needs each, and for several windows in a bucket whose aggregation does not follow from them.
    """
    check_shape(windows, prices)
    zone(timezone)
    plain = [line for line, price in prices.items() if price.bucket is None and not isinstance(price.model, Matrix)]
    totals = add_up(windows.filter(pl.col("line").is_in(plain)), ["line"])
    found = {line: Usage(quantity=totals.get((line,), ZERO)) for line in plain}
    rest = windows.filter(~pl.col("line").is_in(plain)).partition_by("line", as_dict=True)
    nothing = windows.clear()
    for line, price in prices.items():
        if line not in found:
            found[line] = usage_of(rest.get((line,), nothing), price, timezone)
    return {line: found[line] for line in prices}


def usage_of(windows: pl.DataFrame, price: Price, timezone: str) -> Usage:
    """The usage of one line that has buckets or is a matrix."""
    dimensions = list(price.model.dimensions) if isinstance(price.model, Matrix) else []
    missing = [name for name in dimensions if name not in windows.columns]
    windows = windows.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    if price.bucket is None:
        return Usage(groups=as_groups(dimensions, add_up(windows, dimensions)))
    start = pl.col("window_start").dt.convert_time_zone(timezone).dt.truncate(TRUNCATE[price.bucket]).alias("bucket")
    aggregated = aggregate(windows.with_columns(start), ["bucket", *dimensions], price.bucket_aggregation)
    if not dimensions:
        return Usage(buckets=[aggregated[key] for key in sorted(aggregated)])
    # A matrix is linear, so its buckets may be added up for each group.
    totals: dict[tuple[object, ...], Decimal] = {}
    for (_, *group), value in aggregated.items():
        totals[tuple(group)] = totals.get(tuple(group), ZERO) + value
    return Usage(groups=as_groups(dimensions, totals))


def aggregate(
    windows: pl.DataFrame, keys: list[str], aggregation: Aggregation | None
) -> dict[tuple[object, ...], Decimal]:
    """One value a bucket. What does not follow from parts must come as whole buckets."""
    match aggregation:
        case Aggregation.SUM | Aggregation.COUNT:
            return add_up(windows, keys)
        case Aggregation.MAX:
            return as_values(windows.group_by(keys, maintain_order=True).agg(pl.col("value").max()), keys)
        case Aggregation.MIN:
            return as_values(windows.group_by(keys, maintain_order=True).agg(pl.col("value").min()), keys)
        case _:
            values = as_values(windows, keys)
            if len(values) != len(windows):
                raise broken(f"{aggregation} of a bucket does not follow from several windows in it")
            return values


def add_up(windows: pl.DataFrame, keys: list[str]) -> dict[tuple[object, ...], Decimal]:
    """Exact sums by key. Without keys there is one sum."""
    largest = cast("Decimal | None", windows.get_column("value").abs().max()) or ZERO
    if largest.scaleb(MAX_SCALE) * len(windows) < SAFE_UNITS:
        if keys:
            return as_values(windows.group_by(keys, maintain_order=True).agg(pl.col("value").sum()), keys)
        return as_values(windows.select(pl.col("value").sum()), keys)
    sums: dict[tuple[object, ...], Decimal] = {}
    for *key, value in rows(windows, keys):
        sums[tuple(key)] = sums.get(tuple(key), ZERO) + cast("Decimal", value)
    return sums


def as_values(frame: pl.DataFrame, keys: list[str]) -> dict[tuple[object, ...], Decimal]:
    return {tuple(key): cast("Decimal", value) for *key, value in rows(frame, keys)}


def rows(frame: pl.DataFrame, keys: list[str]) -> Iterable[tuple[object, ...]]:
    return frame.select(*keys, "value").iter_rows()


def as_groups(dimensions: list[str], totals: Mapping[tuple[object, ...], Decimal]) -> list[Group]:
    return [
        Group(
            properties={name: value for name, value in zip(dimensions, key, strict=True) if isinstance(value, str)},
            quantity=total,
        )
        for key, total in totals.items()
    ]


def check_shape(windows: pl.DataFrame, prices: Mapping[str, Price]) -> None:
    if len(windows) > MAX_ROWS:
        raise broken(f"{len(windows)} windows; {MAX_ROWS} is the limit")
    value, start, line = (windows.schema.get(name) for name in ("value", "window_start", "line"))
    if not isinstance(value, pl.Decimal) or value.scale > MAX_SCALE:
        raise broken(f"values are {value}; they must be Decimal with at most {MAX_SCALE} decimals")
    if not isinstance(start, pl.Datetime) or start.time_zone is None or line != pl.String:
        raise broken("window_start must be a datetime with a timezone, and line text")
    if windows.select(pl.any_horizontal(pl.col("value", "window_start", "line").is_null().any())).item():
        raise broken("a window has no value, no start or no line")
    unknown = set(cast("list[str]", windows.get_column("line").unique().to_list())) - set(prices)
    if unknown:
        raise broken(f"{len(unknown)} lines have windows and no price")
    for name, price in prices.items():
        if isinstance(price.model, Percentage) and not price.model.is_rate_alone:
            raise broken(f"line {name} needs each transaction; windows hold their sums")


def broken(detail: str) -> InvariantBroken:
    return InvariantBroken("pricing.invalid_frame", detail)
