"""What is priced: one quantity, or transactions, groups or buckets of it. And the units it is counted in."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, Inexact
from typing import assert_never

from pricing.charges import ConversionRounding, UnitConversion
from pricing.explain import Explanation
from pricing.fields import Fields
from pricing.matrix import Group, read_groups
from schemas.errors import Reject
from schemas.money import CONTEXT, EXACT, format_decimal

INVALID_QUANTITY = "pricing.invalid_quantity"
MAX_ITEMS = 100_000  # transactions, groups or buckets of one price
KINDS = ("quantity", "transactions", "groups", "buckets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """At most one of the four is there; none is enough for a `flat` price alone."""

    quantity: Decimal | None = None
    transactions: Sequence[Decimal] | None = None  # amounts, in order
    groups: Sequence[Group] | None = None
    buckets: Sequence[Decimal] | None = None  # one aggregated quantity a bucket


def read_usage(fields: Fields) -> Usage:
    """The one of `quantity`, `transactions`, `groups` and `buckets` that is there. Raises Reject for two."""
    present = [name for name in KINDS if fields.has(name)]
    if len(present) > 1:
        raise Reject.at(fields.at(present[1]), INVALID_QUANTITY, f"stands beside {present[0]}; one of them is priced")
    return Usage(
        quantity=fields.decimal("quantity") if "quantity" in present else None,
        transactions=fields.decimals("transactions", at_most=MAX_ITEMS) if "transactions" in present else None,
        groups=read_groups(fields, "groups", at_most=MAX_ITEMS) if "groups" in present else None,
        buckets=fields.decimals("buckets", at_most=MAX_ITEMS) if "buckets" in present else None,
    )


def convert(quantity: Decimal, conversion: UnitConversion, explanation: Explanation) -> Decimal:
    """Metered units to priced units, rounded symmetrically about zero.

    A division without rounding is exact when it ends; else it has 50 significant digits, which `explanation.even` says.
    Arithmetic must run under EXACT.
    """
    if conversion.rounding is ConversionRounding.NONE:
        converted = divide(quantity, conversion.divide_by, explanation)
        how = ""
    else:
        converted = round_quotient(quantity, conversion)
        how = f", rounded {conversion.rounding} to {conversion.precision} decimals"
    explanation.note(f"unit_conversion: divided by {format_decimal(conversion.divide_by)}{how}", converted)
    return converted


def divide(number: Decimal, divisor: Decimal, explanation: Explanation) -> Decimal:
    try:
        return EXACT.divide(number, divisor)
    except Inexact:
        explanation.even = False
        return CONTEXT.divide(number, divisor)


def round_quotient(quantity: Decimal, conversion: UnitConversion) -> Decimal:
    """quantity / divide_by to `precision` decimals, decided on the exact remainder, never on a rounded quotient."""
    whole, rest = divmod(abs(quantity).scaleb(conversion.precision), conversion.divide_by)
    match conversion.rounding:
        case ConversionRounding.UP:
            away = rest > 0
        case ConversionRounding.HALF_UP:
            away = rest * 2 >= conversion.divide_by
        case ConversionRounding.DOWN | ConversionRounding.NONE:
            away = False
        case _:
            assert_never(conversion.rounding)
    rounded = (whole + 1 if away else whole).scaleb(-conversion.precision)
    return -rounded if quantity < 0 else rounded
