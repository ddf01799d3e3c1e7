"""Which periods of which entitlements are counted, and what a batch adds to each: exactly, event by event at the edges.

Of every entitlement two periods are kept: the one that contains now, and the next. Now is what the customer's test
clock shows, if it has one. A late event of an older period changes no counter (invoices and usage read the windows, not
these); a period becomes countable by being seeded.

Counters follow the revision of a meter that readers use. When that changes, its periods are seeded anew, a part of them
with each batch: a row of a former revision counts for nothing until then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from itertools import islice

import numpy as np

from flows.attribute import Attributed
from flows.catalogue import Catalogue
from flows.combine import Minutes
from flows.fields import SCALE
from pricing.entitlements import EntitlementPeriod, Reset, entitlement_period
from pricing.periods import Alignment, BillingPeriod
from schemas.catalogue import EntitlementEntry
from schemas.instants import MINUTE_MICROS, from_micros, to_micros
from schemas.meters import Aggregation

#: What counters hold; usage of other aggregations is measured from what is stored.
COUNTED_BY = frozenset({Aggregation.COUNT, Aggregation.SUM})

#: What one batch does of a mass of work at most; the rest waits for the next ones.
TURNS_AT_ONCE = 1_000
SEEDS_AT_ONCE = 2_000

FOREVER = 1 << 60  # microseconds; no instant of an event comes near it

REAL_TIME = 0  # beside the numbers of test clocks, which begin at 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One period of one entitlement, in microseconds since 1970. It counts from `start` to before `end`, by a revision
    of its meter."""

    entitlement_no: int
    customer_no: int
    meter_no: int
    revision: int
    start: int
    end: int


class CounterBook:
    """The counted periods of a shard. A period is `missing` until its row is known to exist."""

    def __init__(self) -> None:
        self._counted: dict[int, list[Counted]] = {}
        self._by_meter: dict[int, dict[int, list[Counted]]] = defaultdict(lambda: defaultdict(list))
        self._entitled: dict[int, set[int]] = defaultdict(set)  # by meter: its entitlements, counted or not
        self._meter_of: dict[int, int] = {}
        self._fresh: dict[Counted, None] = {}  # an earlier process may have made their rows
        self._missing: dict[Counted, None] = {}
        # By clock a heap: when the first period of an entitlement ends, and its number.
        self._turns: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._moved = {REAL_TIME}  # clocks by which more may have ended than has turned
        self._ended: dict[int, int] = {}  # by entitlement: rows of periods that begin before are of no use

    def refresh(self, catalogue: Catalogue, now: datetime) -> None:
        """Take in changed entitlements and meters, and turn to the next period where one has ended.

        At most TURNS_AT_ONCE turn: the next period is counted already, so that a later turn loses nothing.
        """
        stale = set(catalogue.changed_entitlements)
        for meter_no in catalogue.changed_meters:
            stale |= self._entitled[meter_no]
        stale |= self._due(catalogue, now)
        catalogue.changed_entitlements.clear()
        catalogue.changed_meters.clear()
        for number in sorted(stale):
            self._take_in(number, catalogue, now)

    def _due(self, catalogue: Catalogue, now: datetime) -> set[int]:
        """Up to TURNS_AT_ONCE entitlements whose first period has ended, each by its customer's clock."""
        self._moved |= catalogue.changed_clocks
        catalogue.changed_clocks.clear()
        due: set[int] = set()
        for clock_no in sorted(self._moved):
            shown = to_micros(_shown(catalogue, clock_no, now))
            turns = self._turns[clock_no]
            while turns and turns[0][0] <= shown:
                if len(due) == TURNS_AT_ONCE:
                    return due
                due.add(heappop(turns)[1])
        self._moved = {REAL_TIME}
        return due

    def _take_in(self, number: int, catalogue: Catalogue, now: datetime) -> None:
        entry = catalogue.entitlements.get(number)
        if number in self._meter_of:
            self._entitled[self._meter_of.pop(number)].discard(number)
        if entry is None:
            self._replace(number, [], REAL_TIME)
            return
        self._meter_of[number] = entry.meter_no
        self._entitled[entry.meter_no].add(number)
        _, meter = catalogue.tenant_meters.get(entry.meter_no, (0, None))
        counts = meter is not None and meter.aggregation in COUNTED_BY
        clock_no = catalogue.clock_of.get(entry.customer_no, REAL_TIME)
        shown = _shown(catalogue, clock_no, now)
        periods = list(_counted_periods(entry, meter.revision, shown)) if meter and counts else []
        self._replace(number, periods, clock_no)

    def take_fresh(self) -> list[Counted]:
        """Periods that are counted from now on, and were not before. They are missing until `mark_seeded`."""
        fresh = list(self._fresh)
        self._missing |= self._fresh
        self._fresh.clear()
        return fresh

    def missing(self, limit: int = SEEDS_AT_ONCE) -> list[Counted]:
        """Up to `limit` counted periods without a row."""
        return list(islice(self._missing, limit))

    def is_missing(self, period: Counted) -> bool:
        """Whether the period has no row yet, so that what is stored of it will be its seed."""
        return period in self._missing

    def mark_seeded(self, periods: Iterable[Counted]) -> None:
        """Their rows exist."""
        for period in periods:
            self._missing.pop(period, None)

    def take_ended(self) -> dict[int, int]:
        """By entitlement, an instant: the shard's rows of periods that begin before it are of no use any more."""
        ended, self._ended = self._ended, {}
        return ended

    def _replace(self, number: int, periods: list[Counted], clock_no: int) -> None:
        """Count these periods of an entitlement and no others; the first ends by this clock."""
        former = self._counted.pop(number, [])
        for period in former:
            customers = self._by_meter[period.meter_no]
            customers[period.customer_no].remove(period)
            if not customers[period.customer_no]:
                del customers[period.customer_no]
        if periods:
            self._counted[number] = periods
            heappush(self._turns[clock_no], (periods[0].end, number))
        for period in periods:
            self._by_meter[period.meter_no][period.customer_no].append(period)
        if former and periods and former[0].start < periods[0].start:
            self._ended[number] = former[0].start
        rows = {
            (period.start, period.revision)
            for period in former
            if period not in self._missing and period not in self._fresh
        }
        for period in former:
            self._missing.pop(period, None)
            self._fresh.pop(period, None)
        # A period that only ends earlier or later than before keeps its row: the start is its key.
        self._fresh |= dict.fromkeys(period for period in periods if (period.start, period.revision) not in rows)

    def additions(self, judged: Attributed, combined: list[Minutes]) -> dict[Counted, int]:
        """What the batch adds to each counted period, in units of 10^-12."""
        added: dict[Counted, int] = defaultdict(int)
        for minutes in combined:
            customers = self._by_meter.get(minutes.meter.meter_no)
            if not customers or not minutes.meter.active:
                continue
            counts = minutes.meter.aggregation is Aggregation.COUNT
            entitled = np.isin(minutes.customers, np.fromiter(customers, np.uint64, len(customers)))
            edges: set[tuple[int, int]] = set()
            for row in np.flatnonzero(entitled).tolist():
                customer, minute = int(minutes.customers[row]), int(minutes.minutes[row])
                units = int(minutes.counts[row]) * SCALE if counts else minutes.units[row]
                if not _add_whole_minute(added, customers[customer], minute * MINUTE_MICROS, units):
                    edges.add((customer, minute))
            for customer, minute in edges:
                _add_edge(added, judged, minutes, customers[customer], minute)
        return added


def _shown(catalogue: Catalogue, clock_no: int, now: datetime) -> datetime:
    return now if clock_no == REAL_TIME else from_micros(catalogue.clocks[clock_no])


def _add_whole_minute(added: dict[Counted, int], periods: list[Counted], start: int, units: int) -> bool:
    """Add a minute to the periods that contain it. False: a period begins or ends inside, and nothing was added."""
    end = start + MINUTE_MICROS
    touched = [period for period in periods if period.start < end and start < period.end]
    if any(start < period.start or period.end < end for period in touched):
        return False
    for period in touched:
        added[period] += units
    return True


def _add_edge(
    added: dict[Counted, int], judged: Attributed, minutes: Minutes, periods: list[Counted], minute: int
) -> None:
    """Add the events of a minute, each to the periods that contain its own time."""
    customer = periods[0].customer_no
    for occurred_at, units in _events_in(judged, minutes, customer, minute):
        for period in periods:
            if period.start <= occurred_at < period.end:
                added[period] += units


def _events_in(judged: Attributed, minutes: Minutes, customer: int, minute: int) -> Iterator[tuple[int, int]]:
    """(time, units) of what the meter took from this customer's events of the minute."""
    for taken in judged.contributions:
        if taken.meter != minutes.meter:
            continue
        times = judged.events.occurred_at[taken.rows]
        here = (judged.customers[taken.rows] == customer) & (times // MINUTE_MICROS == minute)
        for row in np.flatnonzero(here).tolist():
            effect = judged.effect_of(int(taken.rows[row]))
            yield int(times[row]), effect * (int(taken.whole[row]) * SCALE + int(taken.part[row]))
    for giant in judged.giants:
        time = int(judged.events.occurred_at[giant.row])
        if (
            giant.meter == minutes.meter
            and int(judged.customers[giant.row]) == customer
            and time // MINUTE_MICROS == minute
        ):
            yield time, judged.effect_of(giant.row) * giant.units


def _counted_periods(entry: EntitlementEntry, revision: int, now: datetime) -> Iterator[Counted]:
    """The period that contains now (or the first, before the start) and the one after it, within the entitlement."""
    instant = max(now, entry.starts_at)
    for _ in range(2):
        if entry.ends_at is not None and instant >= entry.ends_at:
            return
        period = _period(entry, instant)
        ends = [end for end in (period.end, entry.ends_at) if end is not None]
        yield Counted(
            entitlement_no=entry.entitlement_no,
            customer_no=entry.customer_no,
            meter_no=entry.meter_no,
            revision=revision,
            start=to_micros(period.start),
            end=to_micros(min(ends)) if ends else FOREVER,
        )
        if period.end is None:
            return
        instant = period.end


def _period(entry: EntitlementEntry, instant: datetime) -> EntitlementPeriod:
    return entitlement_period(
        instant,
        Reset(entry.reset),
        starts_at=entry.starts_at,
        timezone=entry.timezone,
        billing_anchor=entry.billing_anchor,
        billing_period=BillingPeriod(entry.billing_period),
        billing_period_count=entry.billing_period_count,
        alignment=Alignment(entry.alignment),
    )
