"""Exact numbers: what is read, what is refused, and that nothing is rounded unasked."""

from decimal import Decimal, Inexact, getcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.money import (
    currency_exponent,
    exactly,
    format_amount,
    format_decimal,
    from_minor,
    parse_decimal,
    round_half_away,
    round_ratio,
    to_minor,
)

NUMBERS = st.decimals(-(10**20), 10**20, places=12)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e3", "1000"), ("1E-12", "0.000000000001"), ("9" * 38, "9" * 38), ("1e37", "1" + "0" * 37), (".5", "0.5")],
)
def test_an_exponent_is_read_for_what_it_stands_for(text: str, number: str) -> None:
    assert parse_decimal(text) == Decimal(number)


@pytest.mark.parametrize("text", ["-0", "0E+999999", "0." + "0" * 60])
def test_every_zero_is_plain_zero(text: str) -> None:
    assert str(parse_decimal(text)) == "0"


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1_000", "1,5", "x", "NaN", "sNaN", "-Infinity", "１", "9" * 39, "1" + "0" * 38, "1e38", "1e1000000",
     "1e99999999999999999999", "1e-13", "1e-1000000", "1." + "0" * 60 + "1", "0." + "1" * 13, "1" * 200],
)  # fmt: skip
def test_what_is_no_number_within_the_limits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|finite|digits"):
        parse_decimal(text)


@given(NUMBERS)
def test_a_number_written_and_read_is_the_same(number: Decimal) -> None:
    assert parse_decimal(format_decimal(number)) == number


@given(NUMBERS, NUMBERS, NUMBERS)
def test_under_exactly_no_digit_is_lost(one: Decimal, two: Decimal, three: Decimal) -> None:
    @exactly
    def compute() -> Decimal:
        return one * two * three + one

    assert Fraction(compute()) == Fraction(one) * Fraction(two) * Fraction(three) + Fraction(one)


def test_exactly_raises_rather_than_rounds_and_leaves_the_context_as_it_was() -> None:
    @exactly
    def third() -> Decimal:
        return Decimal(1) / 3

    before = getcontext().prec
    with pytest.raises(Inexact):
        third()
    assert getcontext().prec == before


@given(NUMBERS, NUMBERS.filter(bool), st.integers(0, 4))
def test_a_ratio_is_rounded_on_its_exact_value_half_away_from_zero(one: Decimal, two: Decimal, scale: int) -> None:
    size = abs(Fraction(one) / Fraction(two)) * 10**scale + Fraction(1, 2)
    sign = -1 if (one < 0) != (two < 0) else 1
    assert Fraction(round_ratio(one, two, scale)) == sign * Fraction(int(size), 10**scale)


@pytest.mark.parametrize(
    ("number", "rounded"), [("0.005", "0.01"), ("-0.005", "-0.01"), ("-0.004", "0.00"), ("2.675", "2.68")]
)
def test_ties_go_away_from_zero_and_zero_has_no_sign(number: str, rounded: str) -> None:
    assert str(round_half_away(Decimal(number), 2)) == rounded


@given(st.integers(-(10**40), 10**40), st.sampled_from(["USD", "JPY", "KWD", "CLF"]))
def test_minor_units_and_amounts_are_the_same_money(minor: int, currency: str) -> None:
    amount = from_minor(minor, currency)
    assert to_minor(amount, currency) == minor
    assert format_amount(amount, currency) == format(amount, "f")


def test_an_amount_that_is_no_whole_minor_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of minor units"):
        to_minor(Decimal("0.001"), "USD")


@pytest.mark.parametrize("code", ["", "usd", "ZZZ", "XAU", "XXX", "US"])
def test_a_code_that_nothing_can_be_billed_in_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        currency_exponent(code)
