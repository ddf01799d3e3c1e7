"""Discounts, and how a sum is spread over parts so that they add up to it exactly.

Discounts apply one after another to what is left. They never take anything below zero and do nothing to a negative one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, assert_never

from pricing.explain import ZERO, Explanation
from pricing.fields import Fields
from pricing.tiers import PERCENT
from schemas.errors import Reject
from schemas.money import exactly, format_decimal, round_half_away

INVALID_DISCOUNT = "pricing.invalid_discount"
MAX_DISCOUNTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentDiscount:
    percent: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedDiscount:
    amount: Decimal


Discount: TypeAlias = PercentDiscount | FixedDiscount


def read_discounts(fields: Fields, name: str = "discounts") -> tuple[Discount, ...]:
    """A list of `{percent}` or `{amount}`, none of them negative. Absent: no discounts."""
    return tuple(read_discount(item) for item in fields.children(name, at_most=MAX_DISCOUNTS))


def read_discount(fields: Fields) -> Discount:
    if fields.has("percent") == fields.has("amount"):
        raise Reject.at(fields.pointer, INVALID_DISCOUNT, "has either percent or amount")
    discount = (
        PercentDiscount(percent=fields.decimal("percent", at_least=ZERO))
        if fields.has("percent")
        else FixedDiscount(amount=fields.decimal("amount", at_least=ZERO))
    )
    fields.done()
    return discount


def taken_off(discount: Discount, left: Decimal) -> Decimal:
    """What a discount takes of what is left, unrounded: at most all of it. Arithmetic must run under EXACT."""
    if left <= 0:
        return ZERO
    match discount:
        case PercentDiscount():
            return min(left, left * discount.percent * PERCENT)
        case FixedDiscount():
            return min(left, discount.amount)
        case _:
            assert_never(discount)


def discount_line(discounts: Sequence[Discount], explanation: Explanation) -> None:
    """Take line discounts off a cost, unrounded, a row each."""
    for discount in discounts:
        explanation.adjust(f"line discount of {label(discount)}", -taken_off(discount, explanation.total))


def discount_invoice(discounts: Sequence[Discount], subtotal: Decimal, scale: int) -> tuple[Decimal, ...]:
    """What each discount takes off an invoice, each rounded before the next."""
    taken: list[Decimal] = []
    left = subtotal
    for discount in discounts:
        taken.append(round_half_away(taken_off(discount, left), scale))
        left -= taken[-1]
    return tuple(taken)


def label(discount: Discount) -> str:
    match discount:
        case PercentDiscount():
            return f"{format_decimal(discount.percent)}%"
        case FixedDiscount():
            return format_decimal(discount.amount)
        case _:
            assert_never(discount)


@exactly
def spread(amount: Decimal, weights: Sequence[Decimal], scale: int) -> tuple[Decimal, ...]:
    """Parts of `amount` in proportion to `weights`, each with `scale` digits, that add up to it exactly.

    Largest remainder: each part is rounded down, then the units that are left go to the largest remainders, the
    earlier part first among equals. Weights may be negative (a line may be), their sum decides. Without any weight the
    first part takes it all. Raises ValueError for no parts, for weights that cancel out, or an amount of more digits.
    """
    units = amount.scaleb(scale)
    if units != int(units):
        raise ValueError(f"{amount} has more than {scale} digits after the point")
    total = sum(weights, ZERO)
    if not weights or (not total and any(weights)):
        raise ValueError("a sum is spread over parts whose weights do not cancel out")
    if not total:
        return (amount, *(ZERO for _ in weights[1:]))
    divided = [floor_divide(abs(units) * weight * total, total * total) for weight in weights]
    parts = [whole for whole, _ in divided]
    left = int(abs(units) - sum(parts, ZERO))
    for index in sorted(range(len(parts)), key=lambda index: -divided[index][1])[:left]:
        parts[index] += 1
    return tuple((-part if units < 0 else part).scaleb(-scale) for part in parts)


def floor_divide(number: Decimal, divisor: Decimal) -> tuple[Decimal, Decimal]:
    """The quotient rounded down and a remainder that is not negative. The divisor is positive."""
    whole, rest = divmod(number, divisor)
    return (whole - 1, rest + divisor) if rest < 0 else (whole, rest)
