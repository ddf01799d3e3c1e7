"""The `given` of each kind of case, read and answered. POST /v1/pricing/quote and /invoice answer with these too.

Whatever the JSON, the outcome is an answer or a `Reject` with a pointer, never another exception.
"""

from collections.abc import Mapping
from decimal import Decimal

from pricing.charges import PriceType, parse_price, read_commitment
from pricing.credits import INVALID_GRANT, MAX_GRANTS, Grant, Recurrence, UsageAt, burn_down
from pricing.discounts import Discount, read_discounts
from pricing.explain import ZERO, to_wire
from pricing.fields import Fields
from pricing.invoices import MAX_LINES, AmountLine, ComputedLine, InvoiceInput, Line, PricedLine, compute
from pricing.periods import (
    INVALID_PERIOD,
    INVALID_TIMEZONE,
    MAX_BILLING_PERIOD_COUNT,
    MAX_PERIODS,
    Alignment,
    BillingPeriod,
    periods,
    zone,
)
from pricing.proration import Basis, prorate
from pricing.rating import quote
from pricing.taxes import read_taxes
from pricing.usage import read_usage
from schemas.instants import Period, format_instant
from schemas.money import format_amount, format_decimal

MAX_USAGE = 100_000
MIN_PRIORITY = -1_000_000_000

Answer = dict[str, object]


def quote_given(given: object) -> Answer:
    """`currency`, `price` and one kind of usage → `currency`, `exact`, `amount`, `explain`. Raises Reject."""
    fields = Fields(given)
    currency = fields.currency("currency")
    price = parse_price(fields.take("price"), fields.at("price"), currency=currency)
    usage = read_usage(fields)
    fields.done()
    answer = quote(
        price,
        currency=currency,
        quantity=usage.quantity,
        transactions=usage.transactions,
        groups=usage.groups,
        buckets=usage.buckets,
    )
    return {
        "currency": currency,
        "exact": format_decimal(answer.exact),
        "amount": format_amount(answer.amount, currency),
        "explain": to_wire(answer.explain),
    }


def invoice_given(given: object) -> Answer:
    """`currency`, `lines` and what stands round them → the sums, `lines`, and what each discount and tax came to.

    Raises Reject.
    """
    fields = Fields(given)
    currency = fields.currency("currency")
    fields.take("lines")
    invoice = InvoiceInput(
        currency=currency,
        lines=[read_line(line, currency) for line in fields.children("lines", at_most=MAX_LINES)],
        discounts=read_discounts(fields),
        taxes=read_taxes(fields),
        credits=fields.decimal("credits", ZERO, at_least=ZERO),
        commitment=read_commitment(fields.child("commitment")) if fields.has("commitment") else None,
    )
    fields.done()
    computed = compute(invoice)
    sums = {
        "subtotal": computed.subtotal,
        "discount": computed.discount,
        "tax": computed.tax,
        "total": computed.total,
        "credits_applied": computed.credits_applied,
        "amount_due": computed.amount_due,
        "customer_credit": computed.customer_credit,
    }
    return {
        "currency": currency,
        "lines": [line_to_wire(line, currency) for line in computed.lines],
        **{name: format_amount(amount, currency) for name, amount in sums.items()},
        "discounts": [format_amount(amount, currency) for amount in computed.discounts],
        "taxes": [format_amount(amount, currency) for amount in computed.taxes],
    }


def read_line(fields: Fields, currency: str) -> Line:
    discounts: tuple[Discount, ...] = read_discounts(fields)
    line: Line
    if fields.has("amount"):
        line = AmountLine(amount=fields.decimal("amount"), discounts=discounts)
    else:
        price = parse_price(fields.take("price"), fields.at("price"), currency=currency)
        line = PricedLine(price=price, usage=read_usage(fields), discounts=discounts)
    fields.done()
    return line


def line_to_wire(line: ComputedLine, currency: str) -> Answer:
    return {
        "type": (PriceType.USAGE if line.is_usage else PriceType.FIXED).value,
        "exact": format_decimal(line.exact),
        "amount": format_amount(line.amount, currency),
        "explain": to_wire(line.explain),
    }


def prorate_given(given: object) -> Answer:
    """`currency`, `amount`, `period`, `from`, `to`, `basis`, `timezone` → `amount`, `explain`. Raises Reject."""
    fields = Fields(given)
    currency = fields.currency("currency")
    whole = fields.decimal("amount")
    span = fields.child("period")
    period = Period(start=span.instant("start"), end=span.instant("end"))
    span.done()
    start, end = fields.instant("from"), fields.instant("to")
    basis = fields.choice("basis", Basis, Basis.SECOND)
    timezone = read_timezone(fields)
    fields.done()
    answer = prorate(whole, currency=currency, period=period, start=start, end=end, basis=basis, timezone=timezone)
    return {"amount": format_amount(answer.amount, currency), "explain": to_wire(answer.explain)}


def periods_given(given: object) -> Answer:
    """`anchor`, `timezone`, `billing_period`, `billing_period_count`, `count`, `alignment` → `periods`."""
    fields = Fields(given)
    anchor = fields.instant("anchor")
    timezone = read_timezone(fields)
    unit = fields.choice("billing_period", BillingPeriod, code=INVALID_PERIOD)
    every = fields.integer("billing_period_count", 1, at_least=1, at_most=MAX_BILLING_PERIOD_COUNT)
    how_many = fields.integer("count", at_most=MAX_PERIODS)
    alignment = fields.choice("alignment", Alignment, Alignment.ANNIVERSARY)
    fields.done()
    found = periods(anchor, timezone, unit, every, how_many, alignment)
    return {"periods": [[format_instant(period.start), format_instant(period.end)] for period in found]}


def burn_down_given(given: object) -> Answer:
    """`grants`, `usage`, `from`, `to`, `balances`?, `overage`? → `balances`, `balance`, `overage`. Raises Reject."""
    fields = Fields(given)
    for name in ("grants", "usage"):
        fields.take(name)
    grants = [read_grant(grant) for grant in fields.children("grants", at_most=MAX_GRANTS)]
    usage = [read_used(used) for used in fields.children("usage", at_most=MAX_USAGE)]
    start, end = fields.instant("from"), fields.instant("to")
    balances = read_balances(fields.child("balances")) if fields.has("balances") else None
    overage = fields.decimal("overage", ZERO, at_least=ZERO)
    fields.done()
    state = burn_down(grants, usage, start, end, balances=balances, overage=overage)
    return {
        "balances": {grant_id: format_decimal(balance) for grant_id, balance in state.balances.items()},
        "balance": format_decimal(state.balance),
        "overage": format_decimal(state.overage),
    }


def read_grant(fields: Fields) -> Grant:
    grant = Grant(
        id=fields.text("id"),
        amount=fields.decimal("amount", at_least=ZERO),
        priority=fields.integer("priority", at_least=MIN_PRIORITY),
        effective_at=fields.instant("effective_at"),
        expires_at=fields.instant("expires_at") if fields.has("expires_at") else None,
        voided_at=fields.instant("voided_at") if fields.has("voided_at") else None,
        recurrence=read_recurrence(fields.child("recurrence")) if fields.has("recurrence") else None,
    )
    fields.done()
    return grant


def read_recurrence(fields: Fields) -> Recurrence:
    recurrence = Recurrence(every=fields.choice("every", BillingPeriod), anchor=fields.instant("anchor"))
    if recurrence.every is BillingPeriod.ONCE:
        raise fields.wrong("every", INVALID_GRANT, "what happens once does not recur")
    fields.done()
    return recurrence


def read_used(fields: Fields) -> UsageAt:
    used = UsageAt(at=fields.instant("at"), amount=fields.decimal("amount"))
    fields.done()
    return used


def read_balances(fields: Fields) -> Mapping[str, Decimal]:
    return {grant_id: fields.decimal(grant_id, at_least=ZERO) for grant_id in fields.names(at_most=MAX_GRANTS)}


def read_timezone(fields: Fields) -> str:
    if not fields.has("timezone"):
        return "UTC"
    name = fields.take("timezone")
    if not isinstance(name, str):
        raise fields.wrong("timezone", INVALID_TIMEZONE, "must be text")
    return zone(name, fields.at("timezone")).key
