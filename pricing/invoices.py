"""An invoice: lines, their discounts, a commitment, the invoice's discounts, taxes, and what credits pay.

Each line is rounded once, after its own discounts; totals add rounded lines. See `compute` for the order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import TypeAlias, assert_never

import msgspec

from pricing.charges import Commitment, Price, PriceType
from pricing.discounts import Discount, discount_invoice, discount_line
from pricing.explain import ZERO, ExplainRow, Explanation
from pricing.rating import commitment_row, rate
from pricing.taxes import Tax, tax_base
from pricing.usage import Usage
from schemas.errors import Reject
from schemas.money import ROUNDING, STEPS, currency_exponent, exactly, round_half_away

MAX_LINES = 10_000
COMMITMENT_KEY = "commitment"


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedLine:
    """A price and its usage. It counts towards a subscription's commitment if it is usage, unless `is_committed` denies
    it."""

    price: Price
    usage: Usage
    discounts: Sequence[Discount] = ()
    key: str | None = None
    is_committed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountLine:
    """An amount that was found elsewhere: a one-off charge, a proration. `explain` must add up to it if it is given.

    It counts towards a subscription's commitment only if `is_committed` says so.
    """

    amount: Decimal
    explain: Sequence[ExplainRow] = ()
    discounts: Sequence[Discount] = ()
    key: str | None = None
    is_committed: bool = False


Line: TypeAlias = PricedLine | AmountLine


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceInput:
    """`credits` is the money available to pay with; `commitment` is the subscription's, over its usage lines and
    `usage_billed`, the usage that other invoices have billed of the same commitment's period."""

    currency: str
    lines: Sequence[Line]
    discounts: Sequence[Discount] = ()
    taxes: Sequence[Tax] = ()
    credits: Decimal = ZERO
    commitment: Commitment | None = None
    usage_billed: Decimal = ZERO


class ComputedLine(msgspec.Struct, frozen=True, gc=False):
    """A line after its discounts. `exact` is the sum of `explain`, `amount` the same rounded once.

    `is_usage`: a subscription's commitment is held against it.
    """

    key: str | None
    exact: Decimal
    amount: Decimal
    explain: tuple[ExplainRow, ...]
    is_usage: bool


class ComputedInvoice(msgspec.Struct, frozen=True):
    """All sums are rounded. `lines` are in the order given, the commitment's last.

    total = subtotal − discount + the exclusive ones of `tax`; amount_due = max(total, 0) − credits_applied;
    `customer_credit` is what a negative total gives the customer. `discounts` and `taxes` say what each one came to.
    """

    lines: tuple[ComputedLine, ...]
    subtotal: Decimal
    discount: Decimal
    tax: Decimal
    total: Decimal
    credits_applied: Decimal
    amount_due: Decimal
    customer_credit: Decimal
    discounts: tuple[Decimal, ...]
    taxes: tuple[Decimal, ...]


@exactly
def compute(invoice: InvoiceInput) -> ComputedInvoice:
    """Lines → subtotal → discounts on what is left → taxes on the rest → total → credits → amount due.

    Raises Reject when a line can't be priced, with a pointer under `/lines`; ValueError for an unknown currency.
    """
    scale = currency_exponent(invoice.currency)
    lines: list[ComputedLine] = []
    for number, line in enumerate(invoice.lines):
        try:
            lines.append(compute_line(line, scale))
        except Reject as reject:
            raise reject.under(f"/lines/{number}") from None
    if invoice.commitment is not None:
        lines.extend(commitment_lines(invoice.commitment, lines, scale, billed=invoice.usage_billed))
    subtotal = sum([line.amount for line in lines], ZERO)
    discounts = discount_invoice(invoice.discounts, subtotal, scale)
    discount = sum(discounts, ZERO)
    taxes = tax_base(invoice.taxes, subtotal - discount, scale)
    total = subtotal - discount + taxes.added
    owed = max(total, ZERO)
    credits_applied = min(available(invoice.credits, scale), owed)
    return ComputedInvoice(
        lines=tuple(lines),
        subtotal=subtotal,
        discount=discount,
        tax=taxes.tax,
        total=total,
        credits_applied=credits_applied,
        amount_due=owed - credits_applied,
        customer_credit=owed - total,
        discounts=discounts,
        taxes=taxes.amounts,
    )


def compute_line(line: Line, scale: int) -> ComputedLine:
    """A line, priced, discounted, rounded."""
    match line:
        case PricedLine():
            explanation = rate(line.price, line.usage)
            is_usage = line.is_committed and line.price.type is PriceType.USAGE
        case AmountLine():
            explanation = explained_amount(line)
            is_usage = line.is_committed
        case _:
            assert_never(line)
    if line.discounts:
        discount_line(line.discounts, explanation)
    exact = explanation.total
    return ComputedLine(line.key, exact, round_half_away(exact, scale), tuple(explanation.rows), is_usage)


def available(money: Decimal, scale: int) -> Decimal:
    """What of a sum of credits can be paid with: whole minor units, rounded down."""
    return money.quantize(STEPS[scale], ROUND_DOWN, ROUNDING) if money else ZERO


def explained_amount(line: AmountLine) -> Explanation:
    explanation = Explanation()
    for row in line.explain or (ExplainRow("amount", None, None, line.amount),):
        explanation.add(row)
    if explanation.total != line.amount:
        raise ValueError(f"the rows of a line add up to {explanation.total}, not to its amount {line.amount}")
    return explanation


def commitment_lines(
    commitment: Commitment, lines: Sequence[ComputedLine], scale: int, *, billed: Decimal
) -> Sequence[ComputedLine]:
    """The line of a subscription's commitment over its rounded usage lines; none when nothing is to be added."""
    row = commitment_row(sum([line.amount for line in lines if line.is_usage], billed), commitment)
    if row is None or not (amount := round_half_away(row.amount, scale)):
        return ()
    return (ComputedLine(COMMITMENT_KEY, row.amount, amount, (row,), True),)
