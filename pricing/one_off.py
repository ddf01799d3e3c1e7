"""A one-off invoice: lines of a given amount or of a price and a quantity, by the engine that prices subscriptions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pricing.billing import check_size, discount_value, list_discounts, wire_rows
from pricing.charges import Price, parse_price, serialize
from pricing.discounts import read_discounts
from pricing.fields import Fields
from pricing.invoice_taxes import list_taxes, read_tax_rates
from pricing.invoices import AmountLine, ComputedLine, InvoiceInput, Line, PricedLine, compute
from pricing.models import Flat, PerUnit
from pricing.usage import Usage
from schemas.billing import Invoice, InvoiceKind, InvoiceLine
from schemas.errors import Reject
from schemas.instants import Period
from schemas.money import exactly, format_decimal

INVALID_LINE = "invoice.invalid_line"
DEFAULT_QUANTITY = Decimal(1)
MAX_LINES = 500
MAX_DESCRIPTION = 500  # characters of a line's


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOffLine:
    """A line as it was asked for: either an amount, or a price of a quantity."""

    key: str
    description: str
    amount: Decimal | None = None
    price: Price | None = None
    quantity: Decimal | None = None

    @property
    def input(self) -> Line:
        if self.price is None:
            assert self.amount is not None
            return AmountLine(amount=self.amount, key=self.key)
        return PricedLine(price=self.price, usage=Usage(quantity=self.quantity), key=self.key)


@exactly
def price_one_off(terms: Mapping[str, object], *, now: datetime) -> Invoice:
    """The invoice of `terms`: `{currency, lines, discounts, taxes}`, lines `{key?, description, amount | price +
    quantity?}`, discounts `{percent}` or `{amount}`, maybe with their coupon, taxes `{key, name, percent, inclusive}`.

    Raises Reject, with the pointer of the field.
    """
    fields = Fields(terms)
    currency = fields.currency("currency")
    lines = [
        _read_line(line, currency, number) for number, line in enumerate(fields.children("lines", at_most=MAX_LINES))
    ]
    if not lines:
        raise Reject.at("/lines", INVALID_LINE, "an invoice has one line at least")
    discounts = terms.get("discounts", ())
    taxes = terms.get("taxes", ())
    assert isinstance(discounts, Sequence)
    assert isinstance(taxes, Sequence)
    rates = read_tax_rates(taxes)
    computed = compute(
        InvoiceInput(
            currency=currency,
            lines=[line.input for line in lines],
            discounts=read_discounts(Fields({"discounts": [discount_value(discount) for discount in discounts]})),
            taxes=[rate.tax for rate in rates],
        )
    )
    check_size([line.amount for line in computed.lines], currency)
    check_size([computed.subtotal, computed.tax, computed.total], currency)
    period = Period(start=now, end=now)
    return Invoice(
        kind=InvoiceKind.ONE_OFF,
        period=period,
        currency=currency,
        lines=tuple(_map_line(line, found, period) for line, found in zip(lines, computed.lines, strict=True)),
        subtotal=computed.subtotal,
        discount=computed.discount,
        tax=computed.tax,
        total=computed.total,
        credits_applied=computed.credits_applied,
        amount_due=computed.amount_due,
        taxes=list_taxes(rates, computed),
        discounts=list_discounts(discounts, computed),
    )


def _read_line(fields: Fields, currency: str, number: int) -> OneOffLine:
    if fields.has("amount") == fields.has("price"):
        raise Reject.at(fields.pointer, INVALID_LINE, "has either an amount or a price")
    key = fields.text("key") if fields.has("key") else f"line-{number + 1}"
    description = fields.text("description", at_most=MAX_DESCRIPTION)
    if fields.has("amount"):
        line = OneOffLine(key=key, description=description, amount=fields.decimal("amount"))
    else:
        line = OneOffLine(
            key=key,
            description=description,
            price=parse_price(fields.take("price"), fields.at("price"), currency=currency),
            quantity=fields.decimal("quantity", DEFAULT_QUANTITY),
        )
    fields.done()
    return line


def _map_line(line: OneOffLine, computed: ComputedLine, period: Period) -> InvoiceLine:
    if line.price is None:
        assert line.amount is not None
        price: Mapping[str, object] = {"amount": format_decimal(line.amount)}
    else:
        price = serialize(line.price)
    return InvoiceLine(
        key=line.key,
        description=line.description,
        quantity=line.quantity,
        unit_amount=_unit_amount(line, computed.exact),
        exact=computed.exact,
        amount=computed.amount,
        period=period,
        price=price,
        explain=wire_rows(computed.explain),
    )


def _unit_amount(line: OneOffLine, exact: Decimal) -> Decimal | None:
    if line.price is None or line.quantity is None:
        return None
    match line.price.model:
        case PerUnit(unit_amount=unit_amount) | Flat(amount=unit_amount):
            return unit_amount if line.quantity * unit_amount == exact else None
        case _:
            return None
