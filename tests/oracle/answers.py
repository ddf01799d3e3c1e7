"""What `GET /v1/usage` must answer, from a ledger."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from tests.oracle.ledger import Entry, Ledger
from tests.oracle.rules import PLACES, WIDE, Group, Meter, Taken, total
from tests.oracle.windows import Window, window_of, windows

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Query:
    """What is asked, in the words of the API. `customer` limits, `by_customer` tells apart."""

    meter: str
    start: datetime
    end: datetime
    window: str = "none"
    zone: str = "UTC"
    customer: str | None = None
    by_customer: bool = False
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True)
class Row:
    window: Window
    customer: str | None
    group: Group


Fact = tuple[Entry, Taken]
Answer = dict[Row, Decimal]


def answer(ledger: Ledger, query: Query) -> Answer:
    """{row: value}; windows without anything are absent."""
    meter = ledger.meters[query.meter]
    facts = [fact for fact in ledger.taken(meter) if _wanted(meter, query, fact)]
    if meter.aggregation == "weighted_sum":
        return _levels(meter, query, facts)
    rows: dict[Row, list[Fact]] = {}
    for fact in facts:
        occurred_at = fact[0].event.time
        if query.start <= occurred_at < query.end:
            whole = (query.start, query.end)
            window = whole if query.window == "none" else window_of(occurred_at, query.window, query.zone)
            rows.setdefault(_row(meter, query, window, fact), []).append(fact)
    combine = COMBINE[meter.aggregation]
    return {row: combine(of_row) for row, of_row in rows.items()}


def _wanted(meter: Meter, query: Query, fact: Fact) -> bool:
    entry, taken = fact
    values = dict(zip(meter.group_by, taken.group, strict=True))
    of_customer = query.customer in (None, entry.customer)
    return of_customer and all(values[name] in wanted for name, wanted in query.filters.items())


def _row(meter: Meter, query: Query, window: Window, fact: Fact) -> Row:
    entry, taken = fact
    values = dict(zip(meter.group_by, taken.group, strict=True))
    told_apart = query.by_customer or query.customer is not None
    return Row(window, entry.customer if told_apart else None, tuple(values[name] for name in query.group_by))


def _values(facts: Sequence[Fact]) -> list[Decimal]:
    return [taken.value for _, taken in facts]


def _order(fact: Fact) -> tuple[datetime, int]:
    """By time, then by place in the log."""
    return fact[0].event.time, fact[0].position


def _average(facts: Sequence[Fact]) -> Decimal:
    return to_decimal(Fraction(total(_values(facts))) / len(facts))


COMBINE: dict[str, Callable[[Sequence[Fact]], Decimal]] = {
    "count": lambda facts: Decimal(len(facts)),
    "sum": lambda facts: total(_values(facts)),
    "min": lambda facts: min(_values(facts)),
    "max": lambda facts: max(_values(facts)),
    "avg": _average,
    "latest": lambda facts: max(facts, key=_order)[1].value,
    "unique_count": lambda facts: Decimal(len({taken.text for _, taken in facts})),
}


def to_decimal(value: Fraction) -> Decimal:
    """With 12 digits after the point, half away from zero, by whole numbers alone."""
    scaled = abs(value) / Fraction(PLACES)
    units = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return WIDE.multiply(Decimal(units if value >= 0 else -units), PLACES)


def _levels(meter: Meter, query: Query, facts: Sequence[Fact]) -> Answer:
    """Time averages: each series' level in each window clipped to the range, the series of a row added up.

    A row is there from the window on in which the first of its series begins.
    """
    series: dict[tuple[str | None, Group], list[Fact]] = {}
    for fact in sorted(facts, key=_order):
        series.setdefault((fact[0].customer, fact[1].group), []).append(fact)
    times = {key: [entry.event.time for entry, _ in of_series] for key, of_series in series.items()}
    found: dict[Row, Fraction] = {}
    for window in windows(query.start, query.end, query.window, query.zone):
        start, end = max(window[0], query.start), min(window[1], query.end)
        for key, of_series in series.items():
            if times[key][0] >= end:
                continue  # the series has not begun
            first, last = bisect_left(times[key], start), bisect_left(times[key], end)
            held = Fraction(of_series[first - 1][1].value) if first else Fraction(0)
            area = sum(
                (level * (until - since) for level, since, until in _steps(held, of_series[first:last], start, end)),
                Fraction(0),
            )
            row = _row(meter, query, window, of_series[0])
            found[row] = found.get(row, Fraction(0)) + area / ((end - start) // MICROSECOND)
    return {row: to_decimal(value) for row, value in found.items()}


def _steps(
    level: Fraction, facts: Sequence[Fact], start: datetime, end: datetime
) -> Iterator[tuple[Fraction, int, int]]:
    """(level, from, to) within [start, end), in microseconds since `start`, from the level held at the start on."""
    since = 0
    for entry, taken in facts:
        at = (entry.event.time - start) // MICROSECOND
        yield level, since, at
        level, since = Fraction(taken.value), at
    yield level, since, (end - start) // MICROSECOND
