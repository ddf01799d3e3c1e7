"""What of an invoice's own discounts and taxes falls on each line: shares that add up to them to the cent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pricing.discounts import spread
from pricing.explain import ZERO
from schemas.money import STEPS, currency_exponent, exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """An issued invoice as far as it is shared out. `lines` are amounts with their subscription, if they have one;
    `discounts` and `taxes` as it is stored with them, `discount` and `added_tax` what all of them came to."""

    currency: str
    lines: Sequence[tuple[Decimal, str | None]]
    discounts: Sequence[Mapping[str, Any]]
    discount: Decimal
    taxes: Sequence[Mapping[str, Any]]
    added_tax: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LineShare:
    """Of one line. `added_tax` comes on top of it, `included_tax` is contained in it; the line's part of the invoice's
    total is its amount − `discount` + `added_tax`."""

    discount: Decimal
    added_tax: Decimal
    included_tax: Decimal


@exactly
def share_out(invoice: Shared) -> list[LineShare]:
    """The share of every line, in their order, each with all digits of the currency. A discount that names a
    subscription is of its lines alone."""
    if not invoice.lines:
        return []
    scale = currency_exponent(invoice.currency)
    amounts = [amount for amount, _ in invoice.lines]
    discounts = [ZERO] * len(amounts)
    left = invoice.discount
    for discount in invoice.discounts:
        taken, owner = Decimal(discount["taken"]), discount.get("subscription")
        weights = [amount if owner in (None, of) else ZERO for amount, of in invoice.lines]
        if any(weights):
            _add(discounts, _spread(taken, weights, scale))
            left -= taken
    _add(discounts, _spread(left, amounts, scale))  # of invoices that do not say which discounts they had
    nets = [amount - discount for amount, discount in zip(amounts, discounts, strict=True)]
    included = sum((Decimal(tax["amount"]) for tax in invoice.taxes if tax["inclusive"]), ZERO)
    added_taxes, included_taxes = _spread(invoice.added_tax, nets, scale), _spread(included, nets, scale)
    digits = STEPS[scale]
    return [
        LineShare(
            discount=discount.quantize(digits),
            added_tax=added.quantize(digits),
            included_tax=contained.quantize(digits),
        )
        for discount, added, contained in zip(discounts, added_taxes, included_taxes, strict=True)
    ]


def _add(sums: list[Decimal], parts: Sequence[Decimal]) -> None:
    for place, part in enumerate(parts):
        sums[place] += part


def _spread(amount: Decimal, weights: Sequence[Decimal], scale: int) -> Sequence[Decimal]:
    """As `spread`; where weights cancel out, rounding alone can have left an amount, and their sizes decide."""
    if not amount:
        return [ZERO] * len(weights)
    return spread(amount, weights if sum(weights, ZERO) else [abs(weight) for weight in weights], scale)
