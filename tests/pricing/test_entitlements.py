"""Entitlements: the decision, and the period that counts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.entitlements import (
    USED_UP,
    Allowance,
    Enforcement,
    Reason,
    Reset,
    carried_over,
    check,
    entitlement_period,
    stack,
)
from pricing.periods import Alignment, BillingPeriod
from schemas.errors import Reject
from schemas.meters import Aggregation

AMOUNTS = st.decimals(0, 1000, places=3)


def decide(limit: str | None, used: str, quantity: str | None = None, **more: Any) -> tuple[bool, str, str | None, str]:
    found = check(
        limit=None if limit is None else Decimal(limit),
        used=Decimal(used),
        quantity=None if quantity is None else Decimal(quantity),
        **more,
    )
    return (
        found.allowed,
        found.reason.value,
        None if found.remaining is None else str(found.remaining),
        str(found.overage),
    )


@pytest.mark.parametrize(
    ("limit", "used", "quantity", "more", "decision"),
    [
        ("10", "9", None, {}, (True, "within_limit", "1", "0")),
        ("10", "10", None, {}, (False, "limit_exceeded", "0", "0")),
        ("10", "9", "1", {}, (True, "within_limit", "1", "0")),
        ("10", "9", "1.001", {}, (False, "limit_exceeded", "1", "0")),
        ("10", "10", "0", {}, (True, "within_limit", "0", "0")),
        ("10", "13", None, {}, (False, "limit_exceeded", "0", "3")),
        ("10", "5", "5", {"reserved": Decimal(1)}, (False, "limit_exceeded", "4", "0")),
        ("10", "8", "1", {"reserved": Decimal(4)}, (False, "limit_exceeded", "0", "2")),
        ("10", "13", "1", {"enforcement": Enforcement.SOFT}, (True, "soft_limit_exceeded", "0", "3")),
        ("0", "0", None, {}, (False, "limit_exceeded", "0", "0")),
        (None, "1000000", "5", {}, (True, "unlimited", None, "0")),
    ],
)
def test_decisions(limit: str | None, used: str, quantity: str | None, more: Any, decision: Any) -> None:
    assert decide(limit, used, quantity, **more) == decision


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.sampled_from(Enforcement))
def test_a_hard_limit_never_allows_more_than_fits(
    limit: Decimal, used: Decimal, reserved: Decimal, quantity: Decimal, enforcement: Enforcement
) -> None:
    found = check(limit=limit, used=used, reserved=reserved, quantity=quantity, enforcement=enforcement)
    fits = used + reserved + quantity <= limit
    assert found.allowed == (fits or enforcement is Enforcement.SOFT)
    assert (found.reason is Reason.WITHIN_LIMIT) == fits
    assert found.remaining is not None
    assert found.remaining >= 0
    assert found.remaining - found.overage == limit - used - reserved


def test_a_negative_quantity_is_rejected() -> None:
    with pytest.raises(Reject):
        decide("10", "0", "-1")


def test_an_unused_limit_carries_over_up_to_its_bound() -> None:
    limit = Decimal(100)
    assert carried_over(limit=limit, used=Decimal(70), rollover_max=None) == 0
    assert carried_over(limit=limit, used=Decimal(70), rollover_max=Decimal(20)) == 20
    assert carried_over(limit=limit, used=Decimal(95), rollover_max=Decimal(20)) == 5
    assert carried_over(limit=limit, used=Decimal(120), rollover_max=Decimal(20)) == 0


STARTS = st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis
TIMEZONES = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"])


@given(
    STARTS,
    st.timedeltas(timedelta(0), timedelta(days=900)),
    st.timedeltas(timedelta(0), timedelta(days=40)),
    st.sampled_from([reset for reset in Reset if reset is not Reset.NEVER]),
    TIMEZONES,
    st.sampled_from(Alignment),
)
def test_periods_tile_the_life_of_a_subscription(
    starts_at: datetime, later: timedelta, trial: timedelta, reset: Reset, timezone: str, alignment: Alignment
) -> None:
    def period(instant: datetime) -> Any:
        return entitlement_period(
            instant,
            reset,
            starts_at=starts_at,
            timezone=timezone,
            billing_anchor=starts_at + trial,
            alignment=alignment,
        )

    at = starts_at + later
    found = period(at)
    assert starts_at <= found.start <= at < found.end
    assert period(found.start) == found
    assert period(found.end - timedelta(microseconds=1)) == found
    assert period(found.end).start == found.end


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("reset", "start", "end"),
    [
        (Reset.HOUR, "2026-03-12T00:00:00+05:30", "2026-03-12T01:00:00+05:30"),
        (Reset.DAY, "2026-03-12T00:00:00+05:30", "2026-03-13T00:00:00+05:30"),
        (Reset.WEEK, "2026-03-09T00:00:00+05:30", "2026-03-16T00:00:00+05:30"),
        (Reset.MONTH, "2026-03-01T00:00:00+05:30", "2026-04-01T00:00:00+05:30"),
        (Reset.YEAR, "2026-01-20T10:00:00+05:30", "2027-01-01T00:00:00+05:30"),
        (Reset.BILLING_PERIOD, "2026-02-20T10:00:00+05:30", "2026-03-20T10:00:00+05:30"),
    ],
)
def test_resets_are_of_the_calendar_or_of_the_billing(reset: Reset, start: str, end: str) -> None:
    anchor = instant("2026-01-20T10:00:00+05:30")
    at = instant("2026-03-12T00:10:00+05:30")
    found = entitlement_period(at, reset, starts_at=anchor, timezone="Asia/Kolkata", billing_anchor=anchor)
    assert (found.start, found.end) == (instant(start), instant(end))


def test_what_never_resets_and_what_is_billed_once_never_ends() -> None:
    anchor = instant("2026-01-20T10:00:00+00:00")
    terms: Any = {"starts_at": anchor, "timezone": "UTC", "billing_anchor": anchor}
    for found in (
        entitlement_period(anchor, Reset.NEVER, **terms),
        entitlement_period(anchor, Reset.BILLING_PERIOD, billing_period=BillingPeriod.ONCE, **terms),
    ):
        assert (found.start, found.end) == (anchor, None)


def test_before_the_subscription_there_is_no_period() -> None:
    anchor = instant("2026-01-20T10:00:00+00:00")
    with pytest.raises(Reject):
        entitlement_period(
            anchor - timedelta(microseconds=1), Reset.DAY, starts_at=anchor, timezone="UTC", billing_anchor=anchor
        )


def allowance(limit: str | None, used: str, since: datetime, enforcement: Enforcement = Enforcement.HARD) -> Allowance:
    return Allowance(
        limit=None if limit is None else Decimal(limit), used=Decimal(used), since=since, enforcement=enforcement
    )


FIRST, MIDDLE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 15, tzinfo=UTC)


def test_limits_of_one_period_add_up_and_usage_counts_once() -> None:
    whole = stack([allowance("100", "120", FIRST), allowance("50", "120", FIRST)], Aggregation.SUM)
    assert (whole.limit, whole.used) == (150, 120)
    alone = stack([allowance("100", "120", FIRST)], Aggregation.SUM)
    assert (alone.limit, alone.used) == (100, 120)


def test_one_without_a_limit_makes_the_whole_unlimited() -> None:
    whole = stack(
        [allowance("100", "90", FIRST), allowance(None, "30", MIDDLE), allowance("5", "30", MIDDLE)], Aggregation.SUM
    )
    assert (whole.limit, whole.used) == (None, 30)


def test_one_that_is_soft_makes_the_whole_soft() -> None:
    whole = stack([allowance("1", "0", FIRST), allowance("1", "0", FIRST, Enforcement.SOFT)], Aggregation.SUM)
    assert whole.enforcement is Enforcement.SOFT


def test_usage_before_a_later_period_is_taken_from_the_earlier_one_alone() -> None:
    # 60 before the 15th leave 40 of the 100; with the 50 that are new on the 15th less 30 there are 60 left.
    whole = stack([allowance("50", "30", MIDDLE), allowance("100", "90", FIRST)], Aggregation.SUM)
    assert (whole.limit, whole.used) == (150, 90)
    # 160 before the 15th: 60 of them were of the period that the later limit had then.
    whole = stack([allowance("50", "30", MIDDLE), allowance("100", "190", FIRST)], Aggregation.SUM)
    assert (whole.limit, whole.used) == (150, 130)


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(1, 28)),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_left_of_the_whole_is_never_more_than_the_limits_nor_more_than_the_last_period_leaves(
    given_limits: list[tuple[int, int, int]],
) -> None:
    allowances = [allowance(str(limit), str(used), datetime(2026, 1, d, tzinfo=UTC)) for limit, used, d in given_limits]
    whole = stack(allowances, Aggregation.SUM)
    assert whole.limit is not None
    assert whole.limit == sum(limit for limit, _, _ in given_limits)
    last = max(allowances, key=lambda each: each.since)
    assert whole.limit - whole.used <= whole.limit - min(each.used for each in allowances if each.since == last.since)


SEGMENTS = st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 12), max_size=6)), min_size=1, max_size=4)
Segments = list[tuple[int, list[int]]]


def allowances_of(segments: Segments, used: Callable[[list[int]], int]) -> list[Allowance]:
    """A limit that begins with each segment, and `used` of the values from there on."""
    values = [of_segment for _, of_segment in segments]
    return [
        allowance(str(limit), str(used(list(chain(*values[place:])))), datetime(2026, 1, 1 + place, tzinfo=UTC))
        for place, (limit, _) in enumerate(segments)
    ]


@given(SEGMENTS)
def test_a_distinct_value_takes_one_place_of_any_limit_that_was_there_when_it_was_last_seen(segments: Segments) -> None:
    whole = stack(allowances_of(segments, lambda values: len(set(values))), Aggregation.UNIQUE_COUNT)
    last_seen = {value: place for place, (_, values) in enumerate(segments) for value in values}
    former = [place for place in last_seen.values() if place < len(segments) - 1]
    places = [begun for begun, (limit, _) in enumerate(segments) for _ in range(limit)]
    assert whole.used == most_seated(former, places) + len(last_seen) - len(former)


def most_seated(last_seen: list[int], places: list[int]) -> int:
    """How many can be seated at most, each in a place that had begun, by augmenting paths."""
    taken: dict[int, int] = {}

    def seat(guest: int, tried: set[int]) -> bool:
        for place, begun in enumerate(places):
            if begun <= last_seen[guest] and place not in tried:
                tried.add(place)
                if place not in taken or seat(taken[place], tried):
                    taken[place] = guest
                    return True
        return False

    return sum(seat(guest, set()) for guest in range(len(last_seen)))


@given(SEGMENTS)
def test_a_maximum_reaches_no_higher_before_a_limit_begins_than_those_before_allow(segments: Segments) -> None:
    whole = stack(allowances_of(segments, lambda values: max(values, default=0)), Aggregation.MAX)
    tops = list(accumulate(limit for limit, _ in segments))
    former = [min(top, value) for top, (_, values) in zip(tops[:-1], segments, strict=False) for value in values]
    assert (whole.limit, whole.used) == (tops[-1], max([0, *former, *segments[-1][1]]))


@pytest.mark.parametrize("aggregation", sorted(set(Aggregation) - USED_UP))
def test_levels_since_two_instants_are_not_added_to_each_other(aggregation: Aggregation) -> None:
    # Thirty machines on the 10th and twenty on the 20th are never fifty, nor ten.
    whole = stack([allowance("100", "30", FIRST), allowance("50", "20", MIDDLE)], aggregation)
    assert (whole.limit, whole.used) == (150, 30)
    # More than there was on the 10th does not count against what began on the 15th.
    whole = stack([allowance("100", "130", FIRST), allowance("50", "20", MIDDLE)], aggregation)
    assert (whole.limit, whole.used) == (150, 100)
    whole = stack([allowance("100", "30", FIRST), allowance("50", "170", MIDDLE)], aggregation)
    assert (whole.limit, whole.used) == (150, 170)
