"""Taxes on one base: a percentage or a fixed sum each, beside the price (exclusive) or contained in it (inclusive).

Taxes stand on the base, not on each other, and each is rounded. What inclusive taxes leave of the base is the net,
which is the base of the exclusive ones. A negative base has negative taxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, assert_never

from pricing.explain import ZERO
from pricing.fields import Fields
from schemas.errors import Reject
from schemas.money import round_half_away, round_ratio

INVALID_TAX = "pricing.invalid_tax"
MAX_TAXES = 100
HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentTax:
    percent: Decimal
    inclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedTax:
    amount: Decimal
    inclusive: bool = False


Tax: TypeAlias = PercentTax | FixedTax


@dataclass(frozen=True, slots=True, kw_only=True)
class Taxes:
    """`amounts` in the order of the taxes; `tax` is their sum, `added` the part that the total grows by."""

    amounts: tuple[Decimal, ...]
    tax: Decimal
    added: Decimal


NO_TAXES = Taxes(amounts=(), tax=ZERO, added=ZERO)


def read_taxes(fields: Fields, name: str = "taxes") -> tuple[Tax, ...]:
    """A list of `{percent, inclusive?}` or `{amount, inclusive?}`, none of them negative. Absent: no taxes."""
    return tuple(read_tax(item) for item in fields.children(name, at_most=MAX_TAXES))


def read_tax(fields: Fields) -> Tax:
    if fields.has("percent") == fields.has("amount"):
        raise Reject.at(fields.pointer, INVALID_TAX, "has either percent or amount")
    inclusive = fields.flag("inclusive", False)
    tax = (
        PercentTax(percent=fields.decimal("percent", at_least=ZERO), inclusive=inclusive)
        if fields.has("percent")
        else FixedTax(amount=fields.decimal("amount", at_least=ZERO), inclusive=inclusive)
    )
    fields.done()
    return tax


def tax_base(taxes: Sequence[Tax], base: Decimal, scale: int) -> Taxes:
    """The taxes of a base, each rounded to `scale` digits. Arithmetic must run under EXACT."""
    if not taxes:
        return NO_TAXES
    inclusive_rates = sum((t.percent for t in taxes if isinstance(t, PercentTax) and t.inclusive), ZERO)
    inside = {
        number: tax_one(tax, base, HUNDRED + inclusive_rates, scale)
        for number, tax in enumerate(taxes)
        if tax.inclusive
    }
    net = base - sum(inside.values(), ZERO)
    amounts = tuple(
        inside[number] if tax.inclusive else tax_one(tax, net, HUNDRED, scale) for number, tax in enumerate(taxes)
    )
    tax = sum(amounts, ZERO)
    return Taxes(amounts=amounts, tax=tax, added=tax - sum(inside.values(), ZERO))


def tax_one(tax: Tax, base: Decimal, whole: Decimal, scale: int) -> Decimal:
    """One tax: base x percent / whole, or its fixed amount with the sign of the base."""
    match tax:
        case PercentTax():
            return round_ratio(base * tax.percent, whole, scale)
        case FixedTax():
            return round_half_away(-tax.amount if base < 0 else tax.amount, scale)
        case _:
            assert_never(tax)
