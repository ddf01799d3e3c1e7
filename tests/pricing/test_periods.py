"""Periods: no drift, no gap, no overlap, in any timezone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.periods import Alignment, BillingPeriod, occurrences, period_at, period_containing, periods, zone
from schemas.errors import Reject

UNITS = st.sampled_from([unit for unit in BillingPeriod if unit is not BillingPeriod.ONCE])
ZONES = st.sampled_from(
    [
        "UTC",
        "America/New_York",
        "America/Sao_Paulo",
        "Asia/Beirut",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Europe/Berlin",
    ]
)
ANCHORS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis
ALIGNMENTS = st.sampled_from(Alignment)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@given(ANCHORS, ZONES, UNITS, st.integers(1, 20), ALIGNMENTS)
def test_periods_follow_each_other_without_gap_or_overlap(
    anchor: datetime, timezone: str, unit: BillingPeriod, count: int, alignment: Alignment
) -> None:
    found = periods(anchor, timezone, unit, count, 20, alignment)
    assert found[0].start == anchor
    assert all(period.start < period.end for period in found)
    assert [period.end for period in found[:-1]] == [period.start for period in found[1:]]


@given(
    ANCHORS, ZONES, UNITS, st.integers(1, 20), ALIGNMENTS, st.timedeltas(timedelta(days=-3000), timedelta(days=3000))
)
def test_an_instant_is_in_the_one_period_that_contains_it(
    anchor: datetime, timezone: str, unit: BillingPeriod, count: int, alignment: Alignment, away: timedelta
) -> None:
    at = anchor + (abs(away) if alignment is Alignment.CALENDAR else away)
    n, period = period_containing(at, anchor, timezone, unit, count, alignment)
    assert at in period
    assert period == period_at(anchor, timezone, unit, count, n, alignment)
    assert n == 0 or (n < 0) == (at < anchor)


@given(ANCHORS, ZONES, st.sampled_from(["month", "quarter", "half_year", "year"]), st.integers(0, 60))
def test_the_day_of_month_never_drifts(anchor: datetime, timezone: str, unit: str, n: int) -> None:
    local = anchor.astimezone(ZoneInfo(timezone))
    start = period_at(anchor, timezone, BillingPeriod(unit), 1, n).start.astimezone(ZoneInfo(timezone))
    month_end = (start.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    assert start.day == min(local.day, month_end.day)


@given(ANCHORS, ZONES, UNITS, st.integers(1, 30))
def test_wall_time_is_kept_or_moved_forward_out_of_a_gap(
    anchor: datetime, timezone: str, unit: BillingPeriod, n: int
) -> None:
    local = anchor.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    start = period_at(anchor, timezone, unit, 1, n).start.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    assert start.time() == local.time() or timedelta(0) < start - datetime.combine(start, local.time()) <= timedelta(
        hours=1
    )


@given(ANCHORS, ZONES, UNITS)
def test_calendar_periods_after_the_first_start_at_local_midnight_or_right_after_a_gap(
    anchor: datetime, timezone: str, unit: BillingPeriod
) -> None:
    for period in periods(anchor, timezone, unit, 1, 4, Alignment.CALENDAR)[1:]:
        start = period.start.astimezone(ZoneInfo(timezone))
        assert (start.minute, start.second) == (0, 0)
        assert start.hour in (0, 1)
        assert unit is not BillingPeriod.WEEK or start.weekday() == 0
        assert unit in (BillingPeriod.DAY, BillingPeriod.WEEK) or start.day == 1
        assert unit is not BillingPeriod.QUARTER or start.month in (1, 4, 7, 10)
        assert unit is not BillingPeriod.HALF_YEAR or start.month in (1, 7)
        assert unit is not BillingPeriod.YEAR or start.month == 1


def test_the_first_period_starts_at_the_anchor_even_in_the_second_of_two_equal_hours() -> None:
    anchor = instant("2026-10-25T02:30:00+01:00")
    first, second = periods(anchor, "Europe/Berlin", BillingPeriod.DAY, 1, 2)
    assert first.start == anchor
    assert second.start == instant("2026-10-26T02:30:00+01:00")


def test_a_calendar_day_that_begins_after_a_gap_is_whole() -> None:
    anchor = instant("2018-11-04T01:00:00-02:00")  # in São Paulo midnight was skipped that day
    (day,) = periods(anchor, "America/Sao_Paulo", BillingPeriod.DAY, 1, 1, Alignment.CALENDAR)
    assert (day.start, day.end) == (anchor, instant("2018-11-05T00:00:00-02:00"))


def test_occurrences_are_those_after_an_instant_before_and_after_the_anchor() -> None:
    anchor, after = instant("2026-03-31T00:00:00+00:00"), instant("2026-01-31T00:00:00+00:00")
    found = occurrences(anchor, "UTC", BillingPeriod.MONTH, after)
    assert [next(found).date().isoformat() for _ in range(3)] == ["2026-02-28", "2026-03-31", "2026-04-30"]


def test_occurrences_end_with_the_calendar() -> None:
    near_the_end = instant("9998-06-01T00:00:00+00:00")
    assert len(list(occurrences(near_the_end, "UTC", BillingPeriod.YEAR, near_the_end))) == 1


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "America", "../../etc/passwd", "/etc/passwd", "europe/berlin", "\x00", "a" * 10_000]
)
def test_a_timezone_that_is_not_in_the_database_is_rejected(name: str) -> None:
    with pytest.raises(Reject) as caught:
        zone(name)
    assert caught.value.code == "pricing.invalid_timezone"


@pytest.mark.parametrize("year", [1, 9999])
@pytest.mark.parametrize("alignment", Alignment)
def test_what_reaches_beyond_the_calendar_is_rejected(year: int, alignment: Alignment) -> None:
    anchor = datetime(year, 12 if year > 1 else 1, 1 if year == 1 else 31, tzinfo=UTC)
    with pytest.raises(Reject, match="years 1 to 9999"):
        periods(anchor, "America/New_York" if year == 1 else "Asia/Tokyo", BillingPeriod.YEAR, 1, 3, alignment)


def test_limits_and_things_without_periods_are_rejected() -> None:
    anchor = instant("2026-01-01T00:00:00+00:00")
    for call in (
        lambda: periods(anchor, "UTC", BillingPeriod.ONCE, 1, 1),
        lambda: periods(anchor, "UTC", BillingPeriod.DAY, 0, 1),
        lambda: periods(anchor, "UTC", BillingPeriod.DAY, 1001, 1),
        lambda: periods(anchor, "UTC", BillingPeriod.DAY, 1, -1),
        lambda: periods(anchor, "UTC", BillingPeriod.DAY, 1, 10_001),
        lambda: period_at(anchor, "UTC", BillingPeriod.DAY, 1, -1, Alignment.CALENDAR),
        lambda: period_at(anchor, "UTC", BillingPeriod.YEAR, 1000, 10**12),
        lambda: period_containing(anchor - timedelta(1), anchor, "UTC", BillingPeriod.DAY, 1, Alignment.CALENDAR),
    ):
        with pytest.raises(Reject) as caught:
            call()
        assert caught.value.code == "pricing.invalid_period"


def test_a_zone_that_depends_on_the_machine_is_refused() -> None:
    with pytest.raises(Reject):
        zone("localtime")
