"""Proration: parts always add up to the whole, and the product is exact before it is rounded."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.given import prorate_given
from pricing.proration import Basis, change, prorate
from schemas.errors import Reject
from schemas.instants import Period

JUNE = Period(start=datetime(2026, 6, 1, tzinfo=UTC), end=datetime(2026, 7, 1, tzinfo=UTC))
WHOLES = st.decimals(-(10**9), 10**9, places=4)
MOMENTS = st.lists(st.datetimes(datetime(2026, 6, 1), datetime(2026, 7, 1), timezones=st.just(UTC)), max_size=8)  # noqa: DTZ001
TIMEZONES = st.sampled_from(["UTC", "Asia/Kolkata", "Pacific/Kiritimati", "America/New_York"])


@given(WHOLES, MOMENTS, st.sampled_from(Basis), TIMEZONES, st.sampled_from(["USD", "JPY", "KWD"]))
def test_parts_of_a_period_add_up_to_the_whole(
    whole: Decimal, moments: list[datetime], basis: Basis, timezone: str, currency: str
) -> None:
    def part(start: datetime, end: datetime) -> Decimal:
        return prorate(
            whole, currency=currency, period=JUNE, start=start, end=end, basis=basis, timezone=timezone
        ).amount

    cuts = [JUNE.start, *sorted(moments), JUNE.end]
    assert sum(part(a, b) for a, b in pairwise(cuts)) == part(JUNE.start, JUNE.end)


@given(WHOLES, MOMENTS, st.sampled_from(Basis))
def test_the_rows_add_up_to_the_amount(whole: Decimal, moments: list[datetime], basis: Basis) -> None:
    at = min(moments, default=JUNE.start)
    found = prorate(whole, currency="USD", period=JUNE, start=at, end=JUNE.end, basis=basis)
    assert sum(row.amount for row in found.explain) == found.amount


@given(WHOLES, WHOLES, st.integers(0, 30 * 86_400))
def test_a_change_credits_the_rest_of_the_old_and_charges_the_rest_of_the_new(
    old: Decimal, new: Decimal, second: int
) -> None:
    at = JUNE.start + timedelta(seconds=second)
    found = change(old, new, currency="USD", period=JUNE, at=at)
    rest_of_old = prorate(old, currency="USD", period=JUNE, start=at, end=JUNE.end)
    assert found.credit.amount == -rest_of_old.amount
    assert found.charge.amount == prorate(new, currency="USD", period=JUNE, start=at, end=JUNE.end).amount


def test_a_period_within_one_local_day_belongs_to_its_end_by_day() -> None:
    period = Period(start=JUNE.start, end=JUNE.start + timedelta(hours=10))
    middle = JUNE.start + timedelta(hours=5)

    def part(start: datetime, end: datetime) -> Decimal:
        return prorate(Decimal(9), currency="USD", period=period, start=start, end=end, basis=Basis.DAY).amount

    assert part(period.start, middle) == 0
    assert part(middle, period.end) == 9


GOOD = {
    "currency": "USD",
    "amount": "10",
    "period": {"start": "2026-06-01T00:00:00Z", "end": "2026-07-01T00:00:00Z"},
    "from": "2026-06-01T00:00:00Z",
    "to": "2026-06-16T00:00:00Z",
}


def test_half_a_period_costs_half() -> None:
    assert prorate_given(GOOD)["amount"] == "5.00"


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"from": "2026-05-31T23:59:59.999999Z"}, "invalid_period", "/from"),
        ({"to": "2026-07-01T00:00:00.000001Z"}, "invalid_period", "/to"),
        ({"from": "2026-06-17T00:00:00Z"}, "invalid_period", "/to"),
        ({"period": {"start": "2026-07-01T00:00:00Z", "end": "2026-07-01T00:00:00Z"}}, "invalid_period", "/period"),
        ({"period": []}, "invalid_field", "/period"),
        ({"period": {"start": "2026-06-01"}}, "invalid_instant", "/period/start"),
        ({"from": "2026-06-01T00:00:00"}, "invalid_instant", "/from"),
        ({"from": "2026-06-31T00:00:00Z"}, "invalid_instant", "/from"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "invalid_instant", "/from"),
        ({"from": 0}, "invalid_instant", "/from"),
        ({"basis": "hour"}, "invalid_field", "/basis"),
        ({"timezone": "Nowhere"}, "invalid_timezone", "/timezone"),
        ({"timezone": None}, "invalid_timezone", "/timezone"),
        ({"amount": None}, "invalid_decimal", "/amount"),
    ],
)
def test_a_wrong_proration_is_named_by_code_and_pointer(changes: dict[str, Any], code: str, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        prorate_given(GOOD | changes)
    assert (caught.value.code, caught.value.errors[0].pointer) == (f"pricing.{code}", pointer)
