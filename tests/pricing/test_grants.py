from datetime import UTC, datetime

from pricing.grants import Grant, Granted, Stretch, write_out
from pricing.periods import BillingPeriod


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def grant(feature_id: str, limit: str | None = "10", source: str = "plan") -> Grant:
    return Grant(
        feature_id=feature_id,
        source=source,
        limit=limit,
        reset="month",
        enforcement="hard",
        billing_period=BillingPeriod.MONTH,
        billing_period_count=1,
    )


A, B, MORE = grant("a"), grant("b"), grant("a", "20")


def shown(granted: list[Granted]) -> list[tuple[Grant, int, int, int | None]]:
    """Grant, and the days from which it counts, from which it holds, and when it ends."""
    return [
        (each.grant, each.starts_at.day, each.effective_at.day, each.ends_at and each.ends_at.day) for each in granted
    ]


def test_what_goes_on_unchanged_is_one_entitlement() -> None:
    stretches = [
        Stretch(start=day(1), end=day(5), grants=(A,)),
        Stretch(start=day(5), end=day(9), grants=(A, B)),
        Stretch(start=day(9), end=None, grants=(A,)),
    ]
    assert shown(write_out(stretches)) == [(A, 1, 1, None), (B, 5, 5, 9)]


def test_a_new_limit_holds_from_the_change_and_counts_from_the_start() -> None:
    stretches = [Stretch(start=day(1), end=day(5), grants=(A,)), Stretch(start=day(5), end=None, grants=(MORE,))]
    assert shown(write_out(stretches)) == [(A, 1, 1, 5), (MORE, 1, 5, None)]


def test_nothing_holds_in_a_pause_and_usage_still_counts_from_the_start() -> None:
    stretches = [
        Stretch(start=day(1), end=day(5), grants=(A,)),
        Stretch(start=day(5), end=day(9), grants=()),
        Stretch(start=day(9), end=day(20), grants=(A,)),
    ]
    assert shown(write_out(stretches)) == [(A, 1, 1, 5), (A, 1, 9, 20)]


def test_the_same_feature_of_two_sources_is_granted_twice() -> None:
    extra = grant("a", "5", source="add_1")
    stretches = [Stretch(start=day(1), end=day(5), grants=(A,)), Stretch(start=day(5), end=None, grants=(A, extra))]
    assert shown(write_out(stretches)) == [(A, 1, 1, None), (extra, 1, 5, None)]


def test_a_stretch_without_length_grants_nothing() -> None:
    assert write_out([Stretch(start=day(1), end=day(1), grants=(A,))]) == []
    stretches = [
        Stretch(start=day(1), end=day(5), grants=(A,)),
        Stretch(start=day(5), end=day(5), grants=(B,)),
        Stretch(start=day(5), end=None, grants=(A,)),
    ]
    assert shown(write_out(stretches)) == [(A, 1, 1, None)]


def test_a_feature_that_comes_back_after_another_plan_counts_from_the_first_day() -> None:
    stretches = [
        Stretch(start=day(1), end=day(5), grants=(A,)),
        Stretch(start=day(5), end=day(9), grants=(B,)),
        Stretch(start=day(9), end=None, grants=(A,)),
    ]
    assert shown(write_out(stretches)) == [(A, 1, 1, 5), (B, 5, 5, 9), (A, 1, 9, None)]
