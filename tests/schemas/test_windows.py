"""Calendar windows, on the days when clocks move."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Reject
from schemas.windows import WindowSize, window_bounds


def local_bounds(size: str, zone: str, start: str, end: str) -> list[str]:
    tz = ZoneInfo(zone)
    instants = window_bounds(WindowSize(size), tz, datetime.fromisoformat(start), datetime.fromisoformat(end))
    return [instant.astimezone(tz).strftime("%Y-%m-%d %H:%M %z") for instant in instants]


@pytest.mark.parametrize(
    ("size", "zone", "start", "end", "bounds"),
    [
        ("day", "America/New_York", "2026-03-08T06:00:00Z", "2026-03-09T05:00:00Z",
         ["2026-03-08 00:00 -0500", "2026-03-09 00:00 -0400", "2026-03-10 00:00 -0400"]),
        ("hour", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z",
         ["2026-11-01 01:00 -0400", "2026-11-01 01:00 -0500", "2026-11-01 02:00 -0500"]),
        ("hour", "Asia/Kolkata", "2026-11-01T04:40:00Z", "2026-11-01T05:00:00Z",
         ["2026-11-01 10:00 +0530", "2026-11-01 11:00 +0530"]),
        ("hour", "Australia/Lord_Howe", "2026-04-04T14:10:00Z", "2026-04-04T16:00:00Z",
         ["2026-04-05 01:00 +1100", "2026-04-05 01:30 +1030", "2026-04-05 02:00 +1030", "2026-04-05 03:00 +1030"]),
        ("day", "America/Sao_Paulo", "2018-11-03T10:00:00Z", "2018-11-05T01:00:00Z",
         ["2018-11-03 00:00 -0300", "2018-11-04 01:00 -0200", "2018-11-05 00:00 -0200"]),
        ("day", "Pacific/Apia", "2011-12-30T00:00:00Z", "2011-12-31T00:00:00Z",
         ["2011-12-29 00:00 -1000", "2011-12-31 00:00 +1400", "2012-01-01 00:00 +1400"]),
        ("week", "UTC", "2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z",
         ["2025-12-29 00:00 +0000", "2026-01-05 00:00 +0000"]),
        ("month", "Europe/Berlin", "2026-02-28T23:30:00Z", "2026-03-31T22:00:00Z",
         ["2026-03-01 00:00 +0100", "2026-04-01 00:00 +0200"]),
    ],
)  # fmt: skip
def test_windows_follow_the_calendar_of_their_zone(
    size: str, zone: str, start: str, end: str, bounds: list[str]
) -> None:
    assert local_bounds(size, zone, start, end) == bounds


@given(
    size=st.sampled_from([size for size in WindowSize if size not in (WindowSize.MINUTE, WindowSize.NONE)]),
    zone=st.sampled_from(["America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo"]),
    start=st.integers(157_766_400, 2_114_380_800).map(lambda seconds: datetime.fromtimestamp(seconds, tz=UTC)),
    length=st.timedeltas(timedelta(microseconds=1), timedelta(days=40)),
)
def test_windows_cover_any_range_without_gap_or_overlap(
    size: WindowSize, zone: str, start: datetime, length: timedelta
) -> None:
    bounds = window_bounds(size, ZoneInfo(zone), start, start + length)
    assert bounds[0] <= start < bounds[1]
    assert bounds[-2] < start + length <= bounds[-1]
    assert all(a < b for a, b in pairwise(bounds))
    shifted = window_bounds(size, ZoneInfo(zone), bounds[-2], start + length)
    assert shifted == bounds[-2:], "a window begins at the same instant, wherever the range begins"


def test_too_many_windows_are_refused_at_the_window_parameter() -> None:
    start = datetime.fromisoformat("2020-01-01T00:00:00Z")
    with pytest.raises(Reject) as refused:
        window_bounds(WindowSize.MINUTE, ZoneInfo("UTC"), start, start + timedelta(days=100))
    assert refused.value.code == "usage.too_many_windows"
    assert refused.value.errors[0].pointer == "/window"
    assert "give `from` and `to`" in refused.value.detail


@pytest.mark.parametrize("size", ["hour", "day", "week", "month"])
@pytest.mark.parametrize(
    ("zone", "start"), [("Africa/Monrovia", "1971-06-01T10:00:00Z"), ("Europe/Amsterdam", "1936-06-01T10:00:00Z")]
)
def test_windows_that_would_part_a_stored_minute_are_refused(zone: str, start: str, size: str) -> None:
    begin = datetime.fromisoformat(start)
    with pytest.raises(Reject) as refused:
        window_bounds(WindowSize(size), ZoneInfo(zone), begin, begin + timedelta(days=40))
    assert refused.value.code == "usage.unsupported_zone"
    assert refused.value.errors[0].pointer == "/timezone"


def test_a_zone_whose_offset_once_had_seconds_has_windows_since() -> None:
    bounds = local_bounds("day", "Africa/Monrovia", "1972-02-01T10:00:00Z", "1972-02-02T10:00:00Z")
    assert bounds == ["1972-02-01 00:00 +0000", "1972-02-02 00:00 +0000", "1972-02-03 00:00 +0000"]
    begin = datetime.fromisoformat("1971-06-01T10:00:07Z")
    for size in (WindowSize.MINUTE, WindowSize.NONE):
        assert window_bounds(size, ZoneInfo("Africa/Monrovia"), begin, begin + timedelta(minutes=1))
