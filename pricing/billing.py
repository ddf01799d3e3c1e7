"""A statement and the usage it needs → an invoice, by the one engine. Previews and invoices both come from here."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias, cast
from zoneinfo import ZoneInfo

from pricing.adjustments import Adjustment, adjustments, difference
from pricing.charges import PlanPrice
from pricing.discounts import read_discount
from pricing.explain import ZERO, ExplainRow, to_wire
from pricing.fields import Fields
from pricing.invoice_taxes import list_taxes
from pricing.invoices import AmountLine, ComputedInvoice, ComputedLine, InvoiceInput, Line, PricedLine, compute
from pricing.lines import StatementLine
from pricing.metered import billed_quantity, detail_of, usage_of
from pricing.models import NAMES, Flat, PerUnit
from pricing.periods import zone
from pricing.proration import prorate
from pricing.rating import quote
from pricing.statements import CommitmentDue, Statement
from pricing.terms import Terms
from pricing.usage import Usage
from schemas.billing import (
    BilledSubscription,
    BilledUsage,
    ExplainedRow,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    MeteredUsage,
    UsageNeed,
)
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import Period
from schemas.money import exactly, format_amount, format_decimal, from_minor, to_minor

MAX_MINOR = 2**63 - 1  # of any amount, in minor units: what the store holds


def usage_needs(
    subscription: BilledSubscription, statement: Statement, meters: Mapping[tuple[str, str], MeterEntry]
) -> list[UsageNeed]:
    """What must be measured before the statement can be priced. `meters` by (tenant_id, key).

    Raises Reject `subscription.unknown_meter` when a price names a meter that is not there, and what `metered` raises
    when the meter can't give what the price needs.
    """
    needs: list[UsageNeed] = []
    for line in statement.lines:
        if not line.is_usage:
            continue
        key = line.price.meter or ""
        meter = meters.get((subscription.tenant_id, key))
        if meter is None:
            raise Reject(
                "subscription.unknown_meter", f"price {line.price.key!r} names the meter {key!r}: there is none"
            )
        detail = detail_of(line.price.price, meter.aggregation, line.period, subscription.timezone)
        needs.append(
            UsageNeed(
                subscription_id=subscription.id,
                key=line.name,
                tenant_no=subscription.tenant_no,
                customer_no=subscription.customer_no,
                meter=meter,
                period=line.period,
                buckets=detail.buckets,
                each=detail.each,
            )
        )
    return needs


@exactly
def price_statement(
    terms: Terms,
    statement: Statement,
    usage: Mapping[str, MeteredUsage],
    *,
    usage_billed: Decimal = ZERO,
    late: Sequence[BilledUsage] = (),
    progress: Sequence[BilledUsage] = (),
) -> Invoice:
    """The invoice of a statement. `usage` has, by the name of each usage line, what it counted; `usage_billed` is what
    other invoices have billed for usage of the period of the statement's commitment, `late` the billed usage that was
    measured again: what has changed of it is adjusted. `progress` is what invoices have billed already of the periods
    of the statement's own lines: these bill the rest.

    Raises Reject when a price can't be applied to the usage: a group that no cell matches, a model that needs more
    than totals. And when an amount is beyond MAX_MINOR.
    """
    due = statement.commitment
    adjusted = adjustments(late, usage, terms.currency)
    begun = {(billed.key, billed.period.start): billed for billed in progress}
    if due is not None and not due.spans_statements:
        own = (begun.get((line.price.key, line.period.start)) for line in statement.lines if line.is_usage)
        minor = sum(billed.amount_minor for billed in own if billed is not None)
        usage_billed = from_minor(minor, terms.currency)
    elif due is not None:
        usage_billed += sum((each.line.amount for each in adjusted if due.has(each.billed.period)), ZERO)
    computed = compute(
        InvoiceInput(
            currency=terms.currency,
            lines=[
                *(_line_input(terms, line, due, usage, begun) for line in statement.lines),
                *(each.line for each in adjusted),
            ],
            discounts=[read_discount(Fields(discount_value(discount.body))) for discount in terms.discounts],
            taxes=[rate.tax for rate in terms.taxes],
            commitment=None if due is None else due.agreed.commitment,
            usage_billed=usage_billed,
        )
    )
    check_size([line.amount for line in computed.lines], terms.currency)
    check_size([computed.subtotal, computed.tax, computed.total], terms.currency)
    lines = [
        _map_line(terms, line, found, usage, begun)
        for line, found in zip(statement.lines, computed.lines, strict=False)  # a commitment's line may follow
    ]
    rest = computed.lines[len(statement.lines) :]
    lines.extend(
        _map_adjustment(terms, each, found)
        for each, found in zip(adjusted, rest, strict=False)  # as above
    )
    if due is not None:
        lines.extend(_map_commitment(terms, due, found) for found in rest[len(adjusted) :])
    return Invoice(
        kind=statement.kind,
        period=statement.period,
        currency=terms.currency,
        lines=tuple(lines),
        subtotal=computed.subtotal,
        discount=computed.discount,
        tax=computed.tax,
        total=computed.total,
        credits_applied=computed.credits_applied,
        amount_due=computed.amount_due,
        taxes=list_taxes(terms.taxes, computed),
        discounts=list_discounts([discount.body for discount in terms.discounts], computed),
    )


def apply_discounts(subscription: BilledSubscription, terms: Terms, invoice: Invoice) -> list[dict[str, Any]]:
    """The subscription's discounts once the invoice is saved: those that took something off have applied once more."""
    discounts = [*subscription.discounts]
    for agreed, found in zip(terms.discounts, invoice.discounts, strict=True):
        if found.taken:
            body = discounts[agreed.place]
            discounts[agreed.place] = {**body, "applied": body.get("applied", 0) + 1}
    return discounts


def discount_value(discount: Mapping[str, object]) -> dict[str, object]:
    """`{percent}` or `{amount}` of a discount as it is stored, with its coupon and its counts."""
    return {name: discount[name] for name in ("percent", "amount") if name in discount}


def list_discounts(terms: Sequence[Mapping[str, object]], computed: ComputedInvoice) -> tuple[InvoiceDiscount, ...]:
    """What each of the invoice's own discounts came to."""
    return tuple(
        InvoiceDiscount(terms=agreed, taken=taken) for agreed, taken in zip(terms, computed.discounts, strict=True)
    )


def check_size(amounts: Sequence[Decimal], currency: str) -> None:
    """Raises Reject `pricing.amount_too_large` for rounded amounts beyond MAX_MINOR."""
    for amount in amounts:
        if abs(to_minor(amount, currency)) > MAX_MINOR:
            raise Reject("pricing.amount_too_large", f"{amount} {currency} is more than an invoice can hold")


#: By key and start of the period, what was billed of a line's usage before.
Begun: TypeAlias = Mapping[tuple[str, datetime], BilledUsage]


def _line_input(
    terms: Terms, line: StatementLine, due: CommitmentDue | None, usage: Mapping[str, MeteredUsage], begun: Begun
) -> Line:
    price = line.price
    if line.is_usage:
        metered = usage[line.name]
        billed = begun.get((price.key, line.period.start))
        is_committed = due is not None and due.has(line.period)
        if billed is not None:
            return difference(price.price, metered, billed, terms.currency, is_committed=is_committed)
        return PricedLine(
            price=price.price, usage=usage_of(price.price, metered), key=price.key, is_committed=is_committed
        )
    if line.is_part:
        return _part(terms, line)
    return PricedLine(price=price.price, usage=Usage(quantity=line.quantity), key=price.key)


def _part(terms: Terms, line: StatementLine) -> AmountLine:
    """A fixed price shared out by time: what the part costs of what the whole period does."""
    whole = quote(line.price.price, currency=terms.currency, quantity=line.quantity)
    part = prorate(
        whole.exact.copy_negate() if line.is_credit else whole.exact,
        currency=terms.currency,
        period=line.whole,
        start=line.period.start,
        end=line.period.end,
        timezone=terms.timezone,
    )
    note = ExplainRow(f"a whole period costs {format_decimal(whole.exact)}", line.quantity, None, ZERO)
    return AmountLine(amount=part.amount, explain=(note, *part.explain), key=line.price.key)


def _map_line(
    terms: Terms, line: StatementLine, computed: ComputedLine, usage: Mapping[str, MeteredUsage], begun: Begun
) -> InvoiceLine:
    price = line.price
    billed = begun.get((price.key, line.period.start)) if line.is_usage else None
    metered = usage[line.name] if line.is_usage else None
    quantity = line.quantity if metered is None else billed_quantity(price.price, metered)
    assert quantity is not None, "a line has the quantity of its terms or of its meter"
    if billed is not None:
        quantity -= billed.quantity
    unit_amount = _unit_amount(price, quantity, computed.exact)
    return InvoiceLine(
        key=price.key,
        description=_describe(terms, line, quantity, unit_amount),
        quantity=quantity,
        unit_amount=unit_amount,
        exact=computed.exact,
        amount=computed.amount,
        period=line.period,
        price=line.body,
        explain=wire_rows(computed.explain),
        meter_no=None if metered is None else metered.meter_no,
        is_credit=line.is_credit,
    )


def _map_adjustment(terms: Terms, adjusted: Adjustment, computed: ComputedLine) -> InvoiceLine:
    billed = adjusted.billed
    return InvoiceLine(
        key=billed.key,
        description=f"{_title(billed.key)}: correction {_dates(billed.period, terms.timezone)}",
        quantity=adjusted.quantity,
        unit_amount=None,
        exact=computed.exact,
        amount=computed.amount,
        period=billed.period,
        price=billed.price,
        explain=wire_rows(computed.explain),
        meter_no=billed.meter_no,
    )


def _map_commitment(terms: Terms, due: CommitmentDue, computed: ComputedLine) -> InvoiceLine:
    commitment = due.agreed.commitment
    amount = format_amount(commitment.amount, terms.currency)
    return InvoiceLine(
        key=computed.key or "commitment",
        description=f"Commitment of {amount} {terms.currency} {_dates(due.period, terms.timezone)}",
        quantity=None,
        unit_amount=None,
        exact=computed.exact,
        amount=computed.amount,
        period=due.period,
        price={
            "commitment": {
                "amount": format_decimal(commitment.amount),
                "overage_factor": format_decimal(commitment.overage_factor),
                "true_up": commitment.true_up,
            }
        },
        explain=wire_rows(computed.explain),
    )


def wire_rows(rows: Sequence[ExplainRow]) -> list[ExplainedRow]:
    """Rows as lines keep them."""
    return [cast("ExplainedRow", row) for row in to_wire(rows)]


def _unit_amount(price: PlanPrice, quantity: Decimal, exact: Decimal) -> Decimal | None:
    """The price of one, where quantity x it is the line; None where tiers, modifiers or a share of time say more."""
    match price.price.model:
        case PerUnit(unit_amount=unit_amount) | Flat(amount=unit_amount):
            return unit_amount if quantity * unit_amount == exact else None
        case _:
            return None


def _describe(terms: Terms, line: StatementLine, quantity: Decimal, unit_amount: Decimal | None) -> str:
    """One sentence for a person: what, how many at which price, for when."""
    name = _title(line.price.key)
    if line.is_credit:
        text = f"{name}: unused part"
    elif line.is_part:
        text = f"{name}: part of a period"
    elif isinstance(line.price.price.model, Flat):
        text = name
    elif unit_amount is not None:
        text = f"{name}: {_shown(quantity)} × {_shown(unit_amount)} {terms.currency}"
    else:
        text = f"{name}: {_shown(quantity)} units, {NAMES[type(line.price.price.model)].replace('_', ' ')}"
    if line.period.start == line.period.end:
        return text
    return f"{text} {_dates(line.period, terms.timezone)}"


def _title(key: str) -> str:
    name = key.replace("_", " ").replace("-", " ")
    return name[:1].upper() + name[1:]


def _shown(number: Decimal) -> str:
    """With separators of thousands: 1,200.5."""
    return format(Decimal(format_decimal(number)), ",f")


def _dates(period: Period, timezone: str) -> str:
    """First and last local day, e.g. `(1 Jan 2026 – 31 Jan 2026)`; one day alone when they are the same."""
    tz = zone(timezone)
    first, last = _day(period.start, tz), _day(max(period.start, period.end - datetime.resolution), tz)
    return f"({first})" if first == last else f"({first} – {last})"


def _day(instant: datetime, tz: ZoneInfo) -> str:
    local = instant.astimezone(tz)
    return f"{local.day} {local:%b %Y}"
