"""Spreading a sum over parts: largest remainder, to the last unit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.discounts import spread

UNITS = st.integers(-(10**9), 10**9)


def parts(amount: str, *weights: str, scale: int = 2) -> list[str]:
    return [str(part) for part in spread(Decimal(amount), [Decimal(weight) for weight in weights], scale)]


@given(UNITS, st.lists(st.decimals(0, 10**9, places=3), min_size=1, max_size=20), st.integers(0, 4))
def test_parts_add_up_and_are_within_a_unit_of_their_share(units: int, weights: list[Decimal], scale: int) -> None:
    amount = Decimal(units).scaleb(-scale)
    found = spread(amount, weights, scale)
    assert sum(found) == amount
    total = sum(weights)
    for part, weight in zip(found, weights, strict=True):
        if total:
            assert abs(part * total - amount * weight) < total.scaleb(-scale)


@given(UNITS, st.lists(st.integers(-1000, 1000), min_size=1, max_size=10).filter(lambda weights: sum(weights) != 0))
def test_parts_of_credits_and_charges_add_up_too(units: int, weights: list[int]) -> None:
    amount = Decimal(units).scaleb(-2)
    assert sum(spread(amount, [Decimal(weight) for weight in weights], 2)) == amount


def test_units_left_over_go_to_the_largest_remainders_then_to_the_earlier_part() -> None:
    assert parts("10", "1", "1", "1") == ["3.34", "3.33", "3.33"]
    assert parts("0.05", "10", "30", "60") == ["0.01", "0.01", "0.03"]
    assert parts("-10", "1", "1", "1") == ["-3.34", "-3.33", "-3.33"]
    assert parts("8", "100", "-20") == ["10.00", "-2.00"]
    assert parts("7", "0", "0", scale=0) == ["7", "0"]


@pytest.mark.parametrize(("amount", "weights"), [("1", ()), ("1", ("1", "-1")), ("0.001", ("1",))])
def test_what_can_not_be_spread_is_refused(amount: str, weights: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"spread|digits"):
        parts(amount, *weights)
