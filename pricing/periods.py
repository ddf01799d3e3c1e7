"""Periods: what follows from an anchor in a timezone. Local wall time is kept, and the day of month never drifts.

Period n starts at anchor + n units, counted from the anchor each time (31 Jan → 29 Feb → 31 Mar). A local time that
a change of clocks skips moves forward by the length of the gap; of a doubled one the first is taken.
With `calendar` alignment period 0 is the short one up to the next start of the calendar's own unit, if there is one.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import assert_never
from zoneinfo import ZoneInfo, available_timezones

from pricing.fields import shown
from schemas.errors import Reject
from schemas.instants import Period

INVALID_PERIOD = "pricing.invalid_period"
INVALID_TIMEZONE = "pricing.invalid_timezone"

MAX_BILLING_PERIOD_COUNT = 1_000
MAX_PERIODS = 10_000  # in one list

MIDNIGHT = time(0)


class BillingPeriod(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    HALF_YEAR = "half_year"
    YEAR = "year"
    ONCE = "once"


class Alignment(StrEnum):
    ANNIVERSARY = "anniversary"
    CALENDAR = "calendar"


#: Units that are days or months, with how many.
DAYS = {BillingPeriod.DAY: 1, BillingPeriod.WEEK: 7}
MONTHS = {BillingPeriod.MONTH: 1, BillingPeriod.QUARTER: 3, BillingPeriod.HALF_YEAR: 6, BillingPeriod.YEAR: 12}


def zone(name: str, pointer: str = "/timezone") -> ZoneInfo:
    """The timezone of an IANA name. Raises Reject `pricing.invalid_timezone`."""
    if name not in known_timezones():
        raise Reject.at(pointer, INVALID_TIMEZONE, f"{shown(name)} is no IANA timezone such as Europe/Berlin")
    return ZoneInfo(name)


@cache
def known_timezones() -> frozenset[str]:
    """Names are looked up in the list first: asking ZoneInfo for an arbitrary one opens an arbitrary file.

    `localtime`, which some systems list, is not among them: it is whatever zone the machine is set to.
    """
    return frozenset(available_timezones()) - {"localtime"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """All periods of one anchor: where period n starts, for any n that exists."""

    anchor: datetime
    timezone: ZoneInfo
    billing_period: BillingPeriod
    count: int
    alignment: Alignment
    base: datetime  # the local wall time that units are counted from, without its timezone
    short: int  # 1 when period 0 is the short one before the calendar's first unit, else 0

    def start(self, n: int) -> datetime:
        """The instant (UTC) at which period n starts."""
        if n == 0:
            return self.anchor
        return resolve(add_units(self.base, self.billing_period, (n - self.short) * self.count), self.timezone)

    def period(self, n: int) -> Period:
        return Period(start=self.start(n), end=self.start(n + 1))

    def index_at(self, instant: datetime) -> int:
        """The number of the period that contains the instant. A guess from the calendar, then a step or two."""
        n = estimate(self.base, instant.astimezone(self.timezone), self.billing_period) // self.count + self.short
        while self.start(n) > instant:
            n -= 1
        while self.start(n + 1) <= instant:
            n += 1
        return n


def schedule(
    anchor: datetime,
    timezone: str,
    billing_period: BillingPeriod,
    count: int = 1,
    alignment: Alignment = Alignment.ANNIVERSARY,
) -> Schedule:
    """The periods of an anchor. Raises Reject for an unknown timezone, a count out of range, or `once`."""
    if billing_period is BillingPeriod.ONCE:
        raise Reject.at("/billing_period", INVALID_PERIOD, "what is billed once has no periods")
    if not 1 <= count <= MAX_BILLING_PERIOD_COUNT:
        raise Reject.at("/billing_period_count", INVALID_PERIOD, f"must be from 1 to {MAX_BILLING_PERIOD_COUNT}")
    tz = zone(timezone)
    try:
        instant = anchor.astimezone(UTC)
        local = instant.astimezone(tz).replace(tzinfo=None, fold=0)
        if alignment is Alignment.ANNIVERSARY:
            return Schedule(instant, tz, billing_period, count, alignment, local, 0)
        base = datetime.combine(unit_start(local.date(), billing_period), MIDNIGHT)
        if resolve(base, tz) == instant:
            return Schedule(instant, tz, billing_period, count, alignment, base, 0)
        return Schedule(instant, tz, billing_period, count, alignment, add_units(base, billing_period, 1), 1)
    except OverflowError:
        raise out_of_range() from None


def period_at(
    anchor: datetime,
    timezone: str,
    billing_period: BillingPeriod,
    count: int,
    n: int,
    alignment: Alignment = Alignment.ANNIVERSARY,
) -> Period:
    """Period n of an anchor. n may be negative with `anniversary` alignment. Raises Reject."""
    terms = schedule(anchor, timezone, billing_period, count, alignment)
    if n < 0 and alignment is Alignment.CALENDAR:
        raise Reject.at("/n", INVALID_PERIOD, "with calendar alignment nothing lies before the anchor")
    try:
        return terms.period(n)
    except OverflowError:
        raise out_of_range() from None


def period_containing(
    instant: datetime,
    anchor: datetime,
    timezone: str,
    billing_period: BillingPeriod,
    count: int = 1,
    alignment: Alignment = Alignment.ANNIVERSARY,
) -> tuple[int, Period]:
    """The period [start, end) that contains the instant, and its number. Raises Reject.

    Before the anchor numbers are negative; with `calendar` alignment nothing lies before it, which is a Reject.
    """
    terms = schedule(anchor, timezone, billing_period, count, alignment)
    if instant < terms.anchor and alignment is Alignment.CALENDAR:
        raise Reject.at("/instant", INVALID_PERIOD, "with calendar alignment nothing lies before the anchor")
    try:
        n = terms.index_at(instant)
        return n, terms.period(n)
    except OverflowError:
        raise out_of_range() from None


def periods(
    anchor: datetime,
    timezone: str,
    billing_period: BillingPeriod,
    count: int,
    how_many: int,
    alignment: Alignment = Alignment.ANNIVERSARY,
) -> list[Period]:
    """The first `how_many` periods, from the anchor on. Raises Reject."""
    if not 0 <= how_many <= MAX_PERIODS:
        raise Reject.at("/count", INVALID_PERIOD, f"must be from 0 to {MAX_PERIODS}")
    terms = schedule(anchor, timezone, billing_period, count, alignment)
    try:
        starts = [terms.start(n) for n in range(how_many + 1)]
    except OverflowError:
        raise out_of_range() from None
    return [Period(start=start, end=end) for start, end in pairwise(starts)]


def occurrences(anchor: datetime, timezone: str, unit: BillingPeriod, after: datetime) -> Iterator[datetime]:
    """The instants anchor + n units (any n) that lie after an instant, in order, as far as the calendar reaches."""
    terms = schedule(anchor, timezone, unit)
    try:
        n = terms.index_at(after) + 1
        while True:
            yield terms.start(n)
            n += 1
    except OverflowError:
        return


def unit_start(day: date, billing_period: BillingPeriod) -> date:
    """The first day of a day's calendar unit: ISO Monday, the 1st, 1 Jan/Apr/Jul/Oct, 1 Jan/Jul, 1 Jan."""
    match billing_period:
        case BillingPeriod.DAY:
            return day
        case BillingPeriod.WEEK:
            return day - timedelta(days=day.weekday())
        case BillingPeriod.MONTH | BillingPeriod.QUARTER | BillingPeriod.HALF_YEAR | BillingPeriod.YEAR:
            months = MONTHS[billing_period]
            return day.replace(month=(day.month - 1) // months * months + 1, day=1)
        case BillingPeriod.ONCE:
            raise AssertionError("once has no calendar unit")
        case _:
            assert_never(billing_period)


def add_units(local: datetime, billing_period: BillingPeriod, n: int) -> datetime:
    """Local wall time n units later. The day of month is clamped to the month's end. Raises OverflowError."""
    if billing_period in DAYS:
        return local + timedelta(days=DAYS[billing_period] * n)
    year, month = divmod(local.year * 12 + local.month - 1 + MONTHS[billing_period] * n, 12)
    if not date.min.year <= year <= date.max.year:
        raise OverflowError("no such year")
    return local.replace(year=year, month=month + 1, day=min(local.day, monthrange(year, month + 1)[1]))


def estimate(base: datetime, local: datetime, billing_period: BillingPeriod) -> int:
    """Whole units from one wall time to another, give or take one."""
    if billing_period in DAYS:
        return (local.date() - base.date()).days // DAYS[billing_period]
    return (local.year * 12 + local.month - base.year * 12 - base.month) // MONTHS[billing_period]


def resolve(local: datetime, timezone: ZoneInfo) -> datetime:
    """The instant of a local wall time. With fold=0 a missing one moves forward and a doubled one is the first."""
    return local.replace(tzinfo=timezone, fold=0).astimezone(UTC)


def out_of_range() -> Reject:
    return Reject.at("/anchor", INVALID_PERIOD, "reaches beyond the years 1 to 9999")
