"""Calendar windows of usage in a time zone: where each begins and ends, daylight saving and all."""

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from schemas.errors import Reject

MAX_WINDOWS = 100_000  # of one query: eleven years of hours


class WindowSize(StrEnum):
    """`week` is ISO's and begins on Monday; `none` is the whole range as one window."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    NONE = "none"


def window_bounds(size: WindowSize, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The instants (UTC, ascending) between which the windows that touch [start, end) lie; one more than windows.

    Minutes are those of UTC. A local hour that comes twice is two windows, a day is as long as its date, and a day
    whose midnight is skipped begins where the clock jumps to. All bounds but those of `none` are whole minutes, as
    usage is stored. Raises Reject for more than MAX_WINDOWS, and `usage.unsupported_zone` where the zone's offset had
    seconds then.
    """
    if size is WindowSize.NONE:
        return [start, end]
    bound = _floor(size, zone, start)
    bounds = [_whole_minute(zone, bound)]
    while bound < end:
        if len(bounds) > MAX_WINDOWS:
            detail = f"More than {MAX_WINDOWS:,} windows: give `from` and `to`, or take larger windows."
            raise Reject.at("/window", "usage.too_many_windows", detail)
        bound = _next(size, zone, bound)
        bounds.append(_whole_minute(zone, bound))
    return bounds


def _whole_minute(zone: ZoneInfo, bound: datetime) -> datetime:
    """The bound, if it can part stored minutes."""
    if bound.second or bound.microsecond:
        raise Reject.at(
            "/timezone",
            "usage.unsupported_zone",
            f"the offset of {zone.key} had seconds at {bound.isoformat()}; take a later range or another zone",
        )
    return bound


def _floor(size: WindowSize, zone: ZoneInfo, instant: datetime) -> datetime:
    """The start of the window that holds the instant."""
    if size is WindowSize.MINUTE:
        return instant.replace(second=0, microsecond=0)
    local = instant.astimezone(zone)
    if size is WindowSize.HOUR:
        since = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        begun = instant - since
        # Clocks that move by less than an hour begin a window where they move.
        moved = begun.astimezone(zone).utcoffset() != local.utcoffset()
        return _transition(zone, begun, instant) if moved and begun.astimezone(zone).minute else begun
    return _midnight(zone, _first_date(size, local.date()))


def _next(size: WindowSize, zone: ZoneInfo, bound: datetime) -> datetime:
    """The end of the window that begins at `bound`."""
    if size is WindowSize.MINUTE:
        return bound + timedelta(minutes=1)
    local = bound.astimezone(zone)
    if size is WindowSize.HOUR:
        ahead = bound + timedelta(hours=1) - timedelta(minutes=local.minute, seconds=local.second)
        moved = ahead.astimezone(zone).utcoffset() != local.utcoffset()
        return _transition(zone, bound, ahead) if moved and ahead.astimezone(zone).minute else ahead
    day = local.date()
    following = {
        WindowSize.DAY: day + timedelta(days=1),
        WindowSize.WEEK: day + timedelta(days=7),
        WindowSize.MONTH: (day.replace(day=1) + timedelta(days=32)).replace(day=1),
    }[size]
    return _midnight(zone, following)


def _first_date(size: WindowSize, day: date) -> date:
    if size is WindowSize.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if size is WindowSize.MONTH else day


def _midnight(zone: ZoneInfo, day: date) -> datetime:
    """The instant a local date begins: the first of two midnights, or the end of the gap that swallowed it."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _transition(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The instant within (before, after] from which the zone's offset is that of `after`; offsets move on minutes."""
    offset = after.astimezone(zone).utcoffset()
    low, high = before, after
    while high - low > timedelta(minutes=1):
        middle = low + timedelta(minutes=(high - low) // timedelta(minutes=2))
        low, high = (low, middle) if middle.astimezone(zone).utcoffset() == offset else (middle, high)
    return high.replace(second=0, microsecond=0)
