"""Exact numbers: quantities, amounts and currencies. Decimal only; there is no float here and none may come in.

Quantities and unit amounts have at most 38 significant digits and 12 after the point. Amounts are decimal text on
the wire and integers of the currency's minor unit at rest. Rounding is half away from zero, once, at the end.
"""

from collections.abc import Callable
from decimal import (
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    getcontext,
    setcontext,
)
from fractions import Fraction
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from iso4217 import Currency

MAX_DIGITS = 38
MAX_SCALE = 12
MAX_TEXT = 128  # longer text is no number that fits the limits above, whatever it says

#: 50 significant digits; NaN, infinity and division by zero raise instead of spreading.
CONTEXT = Context(prec=50, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])

#: Digits that no chain of products and sums of numbers within the limits above can fill.
EXACT_DIGITS = 600

#: Sums and products are never rounded: a digit that would be lost raises `decimal.Inexact`.
EXACT = Context(prec=EXACT_DIGITS, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])

#: Rounding to a scale, with room for whatever EXACT holds.
ROUNDING = Context(prec=EXACT_DIGITS, rounding=ROUND_HALF_UP, traps=[InvalidOperation, DivisionByZero, Overflow])

#: What one unit of each scale is: STEPS[2] is 0.01.
STEPS = tuple(Decimal((0, (1,), -scale)) for scale in range(MAX_SCALE + 1))

P = ParamSpec("P")
T = TypeVar("T")


def exactly(function: Callable[P, T]) -> Callable[P, T]:
    """Run `function` under EXACT, so that `+`, `-`, `*` in it and below it lose no digit.

    Put it on every door to arithmetic: outside, Python's default context silently rounds to 28 digits.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        outer = getcontext()
        setcontext(EXACT)  # `localcontext` would copy it, which costs more than pricing a line
        try:
            return function(*args, **kwargs)
        finally:
            setcontext(outer)

    return run


def parse_decimal(text: str) -> Decimal:
    """Text of a finite decimal within 38 digits and 12 after the point. An exponent is read for what it stands for.

    Raises ValueError, saying which limit was passed.
    """
    if len(text) > MAX_TEXT or not text.isascii() or "_" in text or text != text.strip():
        raise ValueError("not a decimal number")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("not a decimal number") from None
    if not number.is_finite():
        raise ValueError("must be finite")
    if not number:
        return Decimal(0)  # neither -0 nor 0E+999999 spreads further
    if number.adjusted() < -MAX_SCALE:
        raise ValueError(f"more than {MAX_SCALE} digits after the point")
    if number.adjusted() >= MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} significant digits")
    _, digits, exponent = number.normalize(EXACT).as_tuple()
    assert isinstance(exponent, int)
    if -exponent > MAX_SCALE:
        raise ValueError(f"more than {MAX_SCALE} digits after the point")
    if len(digits) + max(exponent, 0) > MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} significant digits")
    return number


def format_decimal(number: Decimal) -> str:
    """Plain text without exponent and without trailing zeros: `1000`, `0.5`, `-3.25`."""
    if not number:
        return "0"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@cache
def currency_exponent(currency: str) -> int:
    """Digits after the point in ISO 4217 (USD 2, JPY 0, KWD 3). Raises ValueError for a code that is not in it."""
    try:
        exponent = Currency(currency).exponent
    except ValueError:
        raise ValueError("not an ISO 4217 currency code") from None
    if exponent is None:
        raise ValueError(f"{currency} has no minor unit in ISO 4217, so nothing can be billed in it")
    return exponent


def round_half_away(number: Decimal, scale: int) -> Decimal:
    """`number` with `scale` digits after the point, ties away from zero. Zero has no sign."""
    rounded = number.quantize(STEPS[scale], ROUND_HALF_UP, ROUNDING)
    return rounded or rounded.copy_abs()


def round_ratio(numerator: Decimal, denominator: Decimal, scale: int) -> Decimal:
    """numerator / denominator with `scale` digits, ties away from zero. The quotient is exact before it is rounded."""
    scaled = Fraction(numerator) / Fraction(denominator) * 10**scale
    whole = (2 * abs(scaled.numerator) + scaled.denominator) // (2 * scaled.denominator)
    return Decimal(-whole if scaled < 0 else whole).scaleb(-scale, EXACT)


def to_minor(amount: Decimal, currency: str) -> int:
    """An amount already rounded to the currency as an integer of minor units. Raises ValueError if it is not round."""
    minor = amount.scaleb(currency_exponent(currency), context=EXACT)
    if minor != minor.to_integral_value(context=ROUNDING):
        raise ValueError(f"{amount} is not a whole number of minor units of {currency}")
    return int(minor)


def from_minor(minor: int, currency: str) -> Decimal:
    """Minor units to an amount with exactly the currency's digits: 1999 USD → 19.99."""
    return Decimal(minor).scaleb(-currency_exponent(currency), context=EXACT)


def format_amount(amount: Decimal, currency: str) -> str:
    """A rounded amount with all digits of its currency: `5.00` USD, `5` JPY."""
    return format(round_half_away(amount, currency_exponent(currency)), "f")
