"""Which periods of which entitlements are counted.

Of every entitlement three periods are kept: the one that contains now, the one before, for late events and for what is
carried over from it, and the next; of one that has ended its last two, for a while. Now is what the customer's test
clock shows, if it has one. A late event of a still older period changes no counter: invoices and usage read the
windows. A period becomes countable by being seeded. The row of one that was left counts for nothing, since nothing is
added to it; should it be counted again, when a clock that was ahead is set right, it is seeded anew. A process leaves,
with its first batch, all that those before it counted and it does not.

Counters follow the revision of a meter that readers use. When that changes, its periods are seeded anew, a part of them
with each batch: a row of a former revision counts for nothing until then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import islice

from flows.catalogue import Catalogue
from pricing.entitlements import EntitlementPeriod, Reset, entitlement_period
from pricing.periods import Alignment, BillingPeriod
from schemas.catalogue import EntitlementEntry, MeterEntry
from schemas.counters import COUNTED_BY
from schemas.instants import EPOCH, from_micros, to_micros
from schemas.meters import Aggregation

#: What one batch does of a mass of work at most; the rest waits for the next ones.
TURNS_AT_ONCE = 1_000
SEEDS_AT_ONCE = 2_000

#: A clock that goes back by less than the shortest period leaves the present one among those that are counted.
BACK_AT_MOST = timedelta(hours=1)

#: How long after its end an entitlement may still be given another one, or something be carried over from it.
ENDED_KEPT = timedelta(days=30)

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
    aggregation: Aggregation
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
        self._stale: dict[Counted, None] = {}
        self._given_up: set[Counted] = set()
        self._left: set[tuple[int, int]] = set()  # entitlement, start
        self._latest = EPOCH  # the latest `now` at which periods were chosen
        # By clock a heap: when the first period of an entitlement ends, and its number.
        self._turns: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._moved = {REAL_TIME}  # clocks by which more may have ended than has turned

    def refresh(self, catalogue: Catalogue, now: datetime) -> None:
        """Take in changed entitlements and meters, and turn to the next period where one has ended.

        At most TURNS_AT_ONCE turn: the next period is counted already, so that a later turn loses nothing. When `now`
        has gone back far, all periods are chosen anew.
        """
        stale = set(catalogue.changed_entitlements)
        if now <= self._latest - BACK_AT_MOST:
            self._latest = now
            stale |= self._meter_of.keys()
        for meter_no in catalogue.changed_meters:
            stale |= self._entitled[meter_no]
        stale |= self._due(catalogue, now)
        catalogue.changed_entitlements.clear()
        catalogue.changed_meters.clear()
        if stale:
            self._latest = max(self._latest, now)
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
            self._replace(number, [])
            return
        self._meter_of[number] = entry.meter_no
        self._entitled[entry.meter_no].add(number)
        _, meter = catalogue.tenant_meters.get(entry.meter_no, (0, None))
        counts = meter is not None and meter.aggregation in COUNTED_BY
        clock_no = catalogue.clock_of.get(entry.customer_no, REAL_TIME)
        shown = _shown(catalogue, clock_no, now)
        periods = list(_counted_periods(entry, meter, shown)) if meter and counts else []
        self._replace(number, periods)
        if periods:
            ends = (period.end for period in periods if to_micros(shown) < period.end)
            heappush(self._turns[clock_no], (next(ends, periods[-1].end + ENDED_KEPT // timedelta.resolution), number))

    def take_fresh(self) -> list[Counted]:
        """Periods that are counted from now on, and were not before. They are missing until `mark_seeded`."""
        fresh = list(self._fresh)
        self._missing |= self._fresh
        self._fresh.clear()
        return fresh

    def leave_uncounted(self, rows: Iterable[tuple[int, datetime]]) -> None:
        """Of these rows of an earlier process, by entitlement and start, leave what is not counted now."""
        for number, at in rows:
            start = to_micros(at)
            if all(period.start != start for period in self.counted(number)):
                self._left.add((number, start))

    def take_left(self) -> list[tuple[int, datetime]]:
        """Entitlements and starts of periods that were counted, and are not from now on."""
        left = [(number, from_micros(start)) for number, start in sorted(self._left)]
        self._left.clear()
        return left

    def missing(self, limit: int = SEEDS_AT_ONCE) -> list[Counted]:
        """Up to `limit` counted periods without a row."""
        return list(islice(self._missing, limit))

    def is_missing(self, period: Counted) -> bool:
        """Whether the period has no row that counts, so that what is stored of it will be its seed, if it gets one."""
        return period in self._missing or period in self._stale or period in self._given_up

    def mark_seeded(self, periods: Iterable[Counted]) -> None:
        """Their rows exist."""
        for period in periods:
            self._missing.pop(period, None)

    def mark_stale(self, periods: Iterable[Counted]) -> None:
        """Their rows count for nothing any more: they are missing after `renew_stale`."""
        for period in periods:
            self._missing.pop(period, None)
            self._stale[period] = None

    def renew_stale(self) -> None:
        """Seed anew what is stale."""
        self._missing |= self._stale
        self._stale.clear()

    def give_up(self, periods: Iterable[Counted]) -> None:
        """Count these no more: they have too many values."""
        for period in periods:
            self._missing.pop(period, None)
            self._given_up.add(period)

    def counted(self, number: int) -> Sequence[Counted]:
        """The counted periods of an entitlement, the earliest first: rows of those before it are of no use any more."""
        return self._counted.get(number, ())

    def of_meter(self, meter_no: int) -> Mapping[int, list[Counted]]:
        """The counted periods of a meter, by customer; empty for most meters."""
        return self._by_meter.get(meter_no, {})

    def _replace(self, number: int, periods: list[Counted]) -> None:
        """Count these periods of an entitlement and no others."""
        former = self._counted.pop(number, [])
        for period in former:
            customers = self._by_meter[period.meter_no]
            customers[period.customer_no].remove(period)
            if not customers[period.customer_no]:
                del customers[period.customer_no]
        if periods:
            self._counted[number] = periods
        for period in periods:
            self._by_meter[period.meter_no][period.customer_no].append(period)
        rows = {
            (period.start, period.revision)
            for period in former
            if period not in self._fresh and not self.is_missing(period)
        }
        for period in former:
            self._missing.pop(period, None)
            self._stale.pop(period, None)
            self._fresh.pop(period, None)
            self._given_up.discard(period)
        starts = {period.start for period in periods}
        self._left |= {(number, period.start) for period in former if period.start not in starts}
        self._left -= {(number, start) for start in starts}
        # A period that only ends earlier or later than before keeps its row: the start is its key.
        self._fresh |= dict.fromkeys(period for period in periods if (period.start, period.revision) not in rows)


def _shown(catalogue: Catalogue, clock_no: int, now: datetime) -> datetime:
    return now if clock_no == REAL_TIME else from_micros(catalogue.clocks[clock_no])


def _counted_periods(entry: EntitlementEntry, meter: MeterEntry, now: datetime) -> Iterator[Counted]:
    """The period that contains now (or the first, before the start; the last, after the end), with the one before and
    the one after it, within the entitlement. None once that has ended long ago."""
    instant = max(now, entry.starts_at)
    if entry.ends_at is not None:
        if entry.ends_at <= entry.starts_at or instant - entry.ends_at >= ENDED_KEPT:
            return
        instant = min(instant, entry.ends_at - datetime.resolution)
    start = _period(entry, instant).start
    if start > entry.starts_at:
        instant = start - datetime.resolution
    for _ in range(3 if start > entry.starts_at else 2):
        if entry.ends_at is not None and instant >= entry.ends_at:
            return
        period = _period(entry, instant)
        ends = [end for end in (period.end, entry.ends_at) if end is not None]
        yield Counted(
            entitlement_no=entry.entitlement_no,
            customer_no=entry.customer_no,
            meter_no=entry.meter_no,
            revision=meter.revision,
            aggregation=meter.aggregation,
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
