"""Which periods of which entitlements are counted, and what a batch adds to each: exactly, event by event at the edges.

Of every entitlement two periods are kept: the one that contains now, and the next. A late event of an older period
changes no counter (invoices and usage read the windows, not these); a period becomes countable by being seeded.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush

import numpy as np

from flows.attribute import Attributed
from flows.catalogue import Catalogue
from flows.combine import Minutes
from flows.fields import SCALE
from pricing.entitlements import EntitlementPeriod, Reset, entitlement_period
from pricing.periods import Alignment, BillingPeriod
from schemas.catalogue import EntitlementEntry
from schemas.instants import MINUTE_MICROS, to_micros
from schemas.meters import Aggregation

#: What counters hold; usage of other aggregations is measured from what is stored.
COUNTED_BY = frozenset({Aggregation.COUNT, Aggregation.SUM})

FOREVER = 1 << 60  # microseconds; no instant of an event comes near it


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One period of one entitlement, in microseconds since 1970. It counts from `start` to before `end`."""

    entitlement_no: int
    customer_no: int
    meter_no: int
    start: int
    end: int


class CounterBook:
    """The counted periods of a shard. A period is `missing` until its row is known to exist."""

    def __init__(self) -> None:
        self._counted: dict[int, list[Counted]] = {}
        self._by_meter: dict[int, dict[int, list[Counted]]] = defaultdict(lambda: defaultdict(list))
        self._missing: dict[Counted, None] = {}
        self._turns: list[tuple[int, int]] = []  # a heap: when the first period of an entitlement ends, and its number

    def refresh(self, catalogue: Catalogue, now: datetime) -> list[Counted]:
        """Take in changed entitlements, and turn to the next period where one has ended. Periods that are counted from
        now on, and were not before, come back: some of them may have a row of an earlier process."""
        now_micros = to_micros(now)
        stale = set(catalogue.changed_entitlements)
        catalogue.changed_entitlements.clear()
        while self._turns and self._turns[0][0] <= now_micros:
            stale.add(heappop(self._turns)[1])
        fresh: list[Counted] = []
        for number in sorted(stale):
            entry = catalogue.entitlements.get(number)
            fresh += self._replace(number, [] if entry is None else list(_counted_periods(entry, now)))
        return fresh

    def missing(self) -> list[Counted]:
        """Counted periods without a row yet."""
        return list(self._missing)

    def mark_seeded(self, periods: Iterable[Counted]) -> None:
        """Their rows exist."""
        for period in periods:
            self._missing.pop(period, None)

    def _replace(self, number: int, periods: list[Counted]) -> list[Counted]:
        """Count these periods of an entitlement and no others; those that are new."""
        former = self._counted.pop(number, [])
        for period in former:
            customers = self._by_meter[period.meter_no]
            customers[period.customer_no].remove(period)
            if not customers[period.customer_no]:
                del customers[period.customer_no]
        if periods:
            self._counted[number] = periods
            heappush(self._turns, (periods[0].end, number))
        for period in periods:
            self._by_meter[period.meter_no][period.customer_no].append(period)
        rows = {period.start for period in former if period not in self._missing}
        for period in former:
            self._missing.pop(period, None)
        # A period that only ends earlier or later than before keeps its row: the start is its key.
        fresh = [period for period in periods if period.start not in rows]
        self._missing |= dict.fromkeys(fresh)
        return fresh

    def additions(self, judged: Attributed, combined: list[Minutes]) -> dict[Counted, int]:
        """What the batch adds to each counted period, in units of 10^-12."""
        added: dict[Counted, int] = defaultdict(int)
        for minutes in combined:
            customers = self._by_meter.get(minutes.meter.meter_no)
            if not customers or not minutes.meter.active or minutes.meter.aggregation not in COUNTED_BY:
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


def _counted_periods(entry: EntitlementEntry, now: datetime) -> Iterator[Counted]:
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
