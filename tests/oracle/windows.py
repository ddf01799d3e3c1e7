"""Calendar windows, by looking at what clocks show: no arithmetic on local times, so no daylight-saving case at all."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

QUARTER = timedelta(minutes=15)  # every zone of today moves its clocks on a quarter of an hour
MINUTE = timedelta(minutes=1)
FARTHEST = timedelta(hours=16)  # of a local midnight from that of UTC, with room to spare

Window = tuple[datetime, datetime]


@lru_cache(maxsize=10_000)
def day_start(day: date, zone: str) -> datetime:
    """The first instant at which calendars in the zone show the day, or a later one if it was skipped."""
    instant = datetime(day.year, day.month, day.day, tzinfo=UTC) - FARTHEST
    while instant.astimezone(ZoneInfo(zone)).date() < day:
        instant += QUARTER
    return instant


def _days(size: str, day: date) -> tuple[date, date]:
    if size == "day":
        return day, day + timedelta(days=1)
    if size == "week":
        monday = day - timedelta(days=day.isoweekday() - 1)
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, date(first.year + first.month // 12, first.month % 12 + 1, 1)


def _begins_hour(instant: datetime, zone: ZoneInfo) -> bool:
    local, before = instant.astimezone(zone), (instant - MINUTE).astimezone(zone)
    return local.minute == 0 or local.utcoffset() != before.utcoffset()


@lru_cache(maxsize=100_000)
def _hour(minute: datetime, zone: str) -> Window:
    start, end = minute, minute + MINUTE
    while not _begins_hour(start, ZoneInfo(zone)):
        start -= MINUTE
    while not _begins_hour(end, ZoneInfo(zone)):
        end += MINUTE
    return start, end


def window_of(instant: datetime, size: str, zone: str) -> Window:
    """The window of a size other than `none` that holds the instant."""
    minute = instant.astimezone(UTC).replace(second=0, microsecond=0)
    if size == "minute":
        return minute, minute + MINUTE
    if size == "hour":
        return _hour(minute, zone)
    first, following = _days(size, instant.astimezone(ZoneInfo(zone)).date())
    return day_start(first, zone), day_start(following, zone)


def windows(start: datetime, end: datetime, size: str, zone: str) -> Iterator[Window]:
    """The windows that touch [start, end), in order."""
    if size == "none":
        yield start, end
        return
    instant = start
    while instant < end:
        window = window_of(instant, size, zone)
        yield window
        instant = window[1]
