"""What a price needs of its meter: the buckets of a calendar, and which meters can give them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.charges import Bucket, parse_price
from pricing.metered import MAX_BUCKETS, bucket_bounds, check_meter, detail_of
from schemas.errors import Reject
from schemas.instants import Period
from schemas.meters import Aggregation

instants = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001
zones = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
LINE = {"model": "per_unit", "unit_amount": "1"}


@given(instants, st.timedeltas(timedelta(microseconds=1), timedelta(days=40)), st.sampled_from(Bucket), zones)
def test_buckets_follow_each_other_and_hold_the_whole_period(
    start: datetime, length: timedelta, bucket: Bucket, zone: str
) -> None:
    bounds = bucket_bounds(bucket, Period(start=start, end=start + min(length, timedelta(days=30))), zone)
    assert all(former < later for former, later in pairwise(bounds))
    assert bounds[0] <= start < bounds[1]
    assert bounds[-2] < start + min(length, timedelta(days=30)) <= bounds[-1]


@pytest.mark.parametrize(
    ("bucket", "turns"),
    [("quarter", ["2026-04-01", "2026-07-01", "2026-10-01"]), ("half_year", ["2026-07-01"]), ("year", [])],
)
def test_long_buckets_turn_with_the_local_calendar(bucket: str, turns: list[str]) -> None:
    period = Period(start=datetime(2026, 2, 10, 12, tzinfo=UTC), end=datetime(2026, 12, 31, tzinfo=UTC))
    bounds = bucket_bounds(Bucket(bucket), period, "Asia/Kolkata")
    local = [bound + timedelta(hours=5, minutes=30) for bound in bounds[1:-1]]
    assert [f"{at:%Y-%m-%d %H:%M}" for at in local] == [f"{turn} 00:00" for turn in turns]


def test_more_buckets_than_the_limit_are_refused() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    most = Period(start=start, end=start + timedelta(minutes=MAX_BUCKETS))
    assert len(bucket_bounds(Bucket.MINUTE, most, "UTC")) == MAX_BUCKETS + 1
    price = parse_price({**LINE, "bucket": "minute", "bucket_aggregation": "sum"})
    with pytest.raises(Reject) as refused:
        detail_of(price, Aggregation.SUM, Period(start=start, end=most.end + timedelta(minutes=1)), "UTC")
    assert refused.value.code == "pricing.too_many_buckets"


@pytest.mark.parametrize(
    ("price", "aggregation", "pointer"),
    [
        ({**LINE, "bucket": "day", "bucket_aggregation": "max"}, "sum", "/bucket_aggregation"),
        ({**LINE, "bucket": "day", "bucket_aggregation": "avg"}, "count", "/bucket_aggregation"),
        ({"model": "percentage", "rate": "1", "fixed_amount": "0.3"}, "max", "/model"),
    ],
)
def test_a_meter_that_keeps_too_little_does_not_fit(price: dict[str, str], aggregation: str, pointer: str) -> None:
    with pytest.raises(Reject) as refused:
        check_meter(parse_price(price), Aggregation(aggregation))
    assert (refused.value.code, refused.value.errors[0].pointer) == ("pricing.unfit_meter", pointer)


def test_only_what_a_price_needs_is_measured() -> None:
    period = Period(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 3, tzinfo=UTC))
    plain = detail_of(parse_price({"model": "percentage", "rate": "1"}), Aggregation.SUM, period, "UTC")
    assert (plain.buckets, plain.each) == (None, False)
    each = parse_price({"model": "percentage", "rate": "1", "free_amount": "5"})
    assert detail_of(each, Aggregation.SUM, period, "UTC").each
    daily = parse_price({**LINE, "bucket": "day", "bucket_aggregation": "count"})
    buckets = detail_of(daily, Aggregation.SUM, period, "UTC").buckets
    assert buckets is not None
    assert (len(buckets.bounds), buckets.aggregation, buckets.by_group) == (3, Aggregation.COUNT, False)
