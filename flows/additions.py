"""What a batch adds to the counted periods of entitlements: exactly, event by event where a period begins or ends."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256

import numpy as np
import polars as pl

from flows.attributed import Attributed, Contribution, Giant
from flows.combine import Minutes
from flows.counters import Counted, CounterBook
from flows.fields import SCALE
from schemas.counters import Rank
from schemas.instants import MINUTE_MICROS
from schemas.meters import BY_VALUE, Aggregation
from schemas.money import EXACT, MAX_SCALE

DIGEST_BYTES = 16


@dataclass(slots=True)
class Amount:
    """What is added to one counter, by what its meter takes of events.

    `units` of 10^-12 and, for an average, `events`; where values are ranked, `units` is the value with the highest
    `rank` of those that come, and `taken` the highest rank of those that are taken back; of unique counts `values`: by
    the digest of each value how many events more, or fewer, have it.
    """

    units: int = 0
    events: int = 0
    rank: Rank | None = None
    taken: Rank | None = None
    values: dict[bytes, int] = field(default_factory=dict[bytes, int])

    def __bool__(self) -> bool:
        return bool(self.units or self.events or self.rank or self.taken or self.values)

    def put(self, rank: Rank, units: int, effect: int) -> None:
        """A value comes, or is taken back."""
        if effect < 0:
            self.taken = rank if self.taken is None else max(rank, self.taken)
        elif self.rank is None or rank > self.rank:
            self.rank, self.units = rank, units

    def put_value(self, digest: bytes, refs: int) -> None:
        """So many events more, or fewer, have a value."""
        left = self.values.pop(digest, 0) + refs
        if left:
            self.values[digest] = left

    def add(self, other: "Amount") -> None:
        """Both together, each of another aggregation's kind alone."""
        if other.rank is not None or other.taken is not None:
            if other.rank is not None:
                self.put(other.rank, other.units, 1)
            if other.taken is not None:
                self.put(other.taken, 0, -1)
            return
        self.units += other.units
        self.events += other.events
        for digest, refs in other.values.items():
            self.put_value(digest, refs)


Amounts = dict[Counted, Amount]


def digest_of(text: str) -> bytes:
    """What stands for a value of a unique count: no two are known that have the same."""
    return sha256(text.encode()).digest()[:DIGEST_BYTES]


def quantity_of(units: int) -> Decimal:
    """Units of 10^-12 as a number."""
    return Decimal(units).scaleb(-MAX_SCALE, EXACT)


def additions(book: CounterBook, judged: Attributed, combined: list[Minutes]) -> Amounts:
    """What the batch adds to each counted period, seeded or not."""
    added: Amounts = defaultdict(Amount)
    for minutes in combined:
        customers = book.of_meter(minutes.meter.meter_no)
        if customers and minutes.meter.active:
            _add_minutes(added, judged, minutes, customers)
    texts: list[str] | None = None
    for taken in judged.contributions:
        if taken.meter.aggregation in BY_VALUE and taken.meter.active:
            customers = book.of_meter(taken.meter.meter_no)
            if customers:
                texts = list(judged.texts) if texts is None else texts
                _add_values(added, judged, taken, customers, texts)
    for giant in judged.giants:
        if giant.meter.aggregation in BY_VALUE and giant.meter.active:
            _add_giant(added, judged, giant, book.of_meter(giant.meter.meter_no))
    return added


def _add_minutes(added: Amounts, judged: Attributed, minutes: Minutes, customers: Mapping[int, list[Counted]]) -> None:
    """Add what a meter that adds up took."""
    counts = minutes.meter.aggregation is Aggregation.COUNT
    averages = minutes.meter.aggregation is Aggregation.AVG
    entitled = np.isin(minutes.customers, np.fromiter(customers, np.uint64, len(customers)))
    edges: set[tuple[int, int]] = set()
    for row in np.flatnonzero(entitled).tolist():
        customer, minute = int(minutes.customers[row]), int(minutes.minutes[row])
        count = int(minutes.counts[row])
        units = count * SCALE if counts else minutes.units[row]
        events = count if averages else 0
        if not _add_whole_minute(added, customers[customer], minute * MINUTE_MICROS, units, events):
            edges.add((customer, minute))
    for customer, minute in edges:
        for occurred_at, units, effect in _events_in(judged, minutes, customer, minute):
            for period in customers[customer]:
                if period.start <= occurred_at < period.end:
                    added[period].units += units
                    added[period].events += effect if averages else 0


def _add_whole_minute(added: Amounts, periods: list[Counted], start: int, units: int, events: int) -> bool:
    """Add a minute to the periods that contain it. False: a period begins or ends inside, and nothing was added."""
    end = start + MINUTE_MICROS
    touched = [period for period in periods if period.start < end and start < period.end]
    if any(start < period.start or period.end < end for period in touched):
        return False
    for period in touched:
        amount = added[period]
        amount.units += units
        amount.events += events
    return True


def _events_in(judged: Attributed, minutes: Minutes, customer: int, minute: int) -> Iterator[tuple[int, int, int]]:
    """(time, units, effect) of what the meter took from this customer's events of the minute; units by effect."""
    for taken in judged.contributions:
        if taken.meter != minutes.meter:
            continue
        times = judged.events.occurred_at[taken.rows]
        here = (judged.customers[taken.rows] == customer) & (times // MINUTE_MICROS == minute)
        for row in np.flatnonzero(here).tolist():
            effect = judged.effect_of(int(taken.rows[row]))
            yield int(times[row]), effect * (int(taken.whole[row]) * SCALE + int(taken.part[row])), effect
    for giant in judged.giants:
        time = int(judged.events.occurred_at[giant.row])
        if (
            giant.meter == minutes.meter
            and int(judged.customers[giant.row]) == customer
            and time // MINUTE_MICROS == minute
        ):
            effect = judged.effect_of(giant.row)
            yield time, effect * giant.units, effect


def _add_values(
    added: Amounts, judged: Attributed, taken: Contribution, customers: Mapping[int, list[Counted]], texts: list[str]
) -> None:
    """Add what a meter took that keeps values one by one: the events that lie in a period, joined to it."""
    owners = judged.customers[taken.rows]
    entitled = np.flatnonzero(np.isin(owners, np.fromiter(customers, np.uint64, len(customers))))
    if not len(entitled):
        return
    periods = [period for owner in np.unique(owners[entitled]).tolist() for period in customers[owner]]
    rows, events = taken.rows[entitled], judged.events
    values = pl.DataFrame({
        "customer": owners[entitled],
        "time": events.occurred_at[rows],
        "effect": judged.effects_of(rows).astype(np.int64),
        "whole": taken.whole[entitled],
        "part": taken.part[entitled],
        "text": np.zeros(len(rows), np.int64) if taken.texts is None else taken.texts[entitled],
        "received": events.received_at[rows],
        "partition": events.partitions[rows].astype(np.int64),
        "offset": events.offsets[rows],
        "index": events.indexes[rows].astype(np.int64),
    })  # fmt: skip
    spans = pl.DataFrame({
        "customer": np.array([period.customer_no for period in periods], np.uint64),
        "period": np.arange(len(periods)),
        "start": np.array([period.start for period in periods], np.int64),
        "end": np.array([period.end for period in periods], np.int64),
    })  # fmt: skip
    inside = values.join(spans, on="customer").filter(
        (pl.col("time") >= pl.col("start")) & (pl.col("time") < pl.col("end"))
    )
    if taken.meter.aggregation is Aggregation.UNIQUE_COUNT:
        grouped = inside.group_by("period", "text").agg(pl.col("effect").sum())
        digests = {code: digest_of(texts[code]) for code in grouped["text"].unique().to_list()}
        for place, code, refs in grouped.rows():
            added[periods[place]].put_value(digests[code], refs)
    elif taken.meter.aggregation is not Aggregation.WEIGHTED_SUM:
        _add_ranked(added, taken.meter.aggregation, inside, periods)


#: By what values are ordered, the one that ranks highest last.
_LATER = ["time", "received", "partition", "offset", "index"]
_LARGER = ["whole", "part"]


def _add_ranked(added: Amounts, aggregation: Aggregation, inside: pl.DataFrame, periods: list[Counted]) -> None:
    by = _LATER if aggregation is Aggregation.LATEST else _LARGER
    best = inside.sort(by, descending=aggregation is Aggregation.MIN).unique(
        ["period", "effect"], keep="last", maintain_order=True
    )
    for row in best.iter_rows(named=True):
        units = row["whole"] * SCALE + row["part"]
        place = tuple(Decimal(row[name]) for name in _LATER)
        added[periods[row["period"]]].put(_rank(aggregation, units, place), units, row["effect"])


def _rank(aggregation: Aggregation, units: int, place: Rank) -> Rank:
    """See `schemas.counters.Rank`."""
    match aggregation:
        case Aggregation.LATEST:
            return place
        case Aggregation.MIN:
            return (quantity_of(-units),)
        case _:
            return (quantity_of(units),)


def _add_giant(added: Amounts, judged: Attributed, giant: Giant, customers: Mapping[int, list[Counted]]) -> None:
    """Add a value that columns can't hold, of a meter that keeps values one by one."""
    events, row = judged.events, giant.row
    time = int(events.occurred_at[row])
    place = (time, events.received_at[row], events.partitions[row], events.offsets[row], events.indexes[row])
    rank = _rank(giant.meter.aggregation, giant.units, tuple(Decimal(int(number)) for number in place))
    for period in customers.get(int(judged.customers[row]), ()):
        if period.start <= time < period.end:
            added[period].put(rank, giant.units, judged.effect_of(row))
