"""What an invoice looks like on the wire."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NotRequired

import msgspec
from typing_extensions import TypedDict

from infra.postgres.pool import Row
from ingestion_api.views import Period
from schemas.billing import Invoice
from schemas.invoice_lines import line_id
from schemas.invoicing import DunningProgress, FinalStep
from schemas.money import format_amount, format_decimal, from_minor

InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]


class ExplainView(TypedDict):
    """One summand of a line: quantity x unit amount, or an amount alone."""

    what: str
    quantity: str | None
    unit_amount: str | None
    amount: str


class LineView(TypedDict):
    """One line. `exact` is the unrounded amount; `unit_amount` is null where tiers or modifiers say more than one. A
    preview's lines have the ids that the invoice's will have, unless it is one of several subscriptions."""

    id: str
    subscription: str | None
    key: str
    description: str
    quantity: str | None
    unit_amount: str | None
    exact: str
    amount: str
    currency: str
    period: Period
    price: dict[str, Any]
    explain: NotRequired[list[ExplainView]]


class TaxView(TypedDict):
    """What one tax rate came to: `amount` on `base`. The rate is as it was when the invoice was made."""

    key: str
    name: str
    percent: str
    inclusive: bool
    base: str
    amount: str


class InvoiceDunningView(TypedDict):
    """What is done about an overdue invoice. `status`: `running` while `next_step_at` names when it is looked at next,
    else `over`. `attempts` at charging the payer and `reminders` so far; `failure`: why the last step could not be
    taken and is tried again. Without a schedule `final` is `keep`, and nothing more comes."""

    status: Literal["running", "over"]
    overdue_at: datetime
    attempts: int
    reminders: int
    next_step_at: datetime | None
    blocks_at: datetime | None
    final: FinalStep
    failure: str | None


class InvoiceView(TypedDict):
    """An invoice. `customer` is its external_id. `subscriptions` are all that stand on it, `subscription` the only one,
    null when there are several or none. A preview has neither id nor number. `as_of`: every event that was
    acknowledged before is in its usage; null without usage. `total` = `subtotal` − `discount` + exclusive taxes;
    `amount_due` = `total` − `credits_applied` − what adjustments took off; `amount_remaining` = `amount_due` −
    `amount_paid`. `amount_credited` is the sum of its credit notes. `draft_until`: when a draft is finalized by itself;
    null: when somebody does it. `dunning` is null until it is
    overdue, a day after `due_at`."""

    object: Literal["invoice"]
    id: str | None
    number: str | None
    status: InvoiceStatus
    kind: str
    customer: str
    customer_id: str
    subscription: str | None
    subscriptions: list[str]
    currency: str
    period: Period
    subtotal: str
    discount: str
    tax: str
    total: str
    credits_applied: str
    amount_due: str
    amount_paid: str
    amount_remaining: str
    amount_credited: str
    amount_refunded: str
    discounts: list[dict[str, Any]]
    taxes: list[TaxView]
    lines: list[LineView]
    as_of: datetime | None
    metadata: dict[str, str]
    created_at: datetime
    draft_until: datetime | None
    issued_at: datetime | None
    finalized_at: datetime | None
    due_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    marked_uncollectible_at: datetime | None
    dunning: InvoiceDunningView | None


def to_view(row: Row, lines: Sequence[Row], *, explain: bool) -> InvoiceView:
    """An issued invoice with its lines."""
    currency = row["currency"]

    def amount(minor: int) -> str:
        return format_amount(from_minor(minor, currency), currency)

    remaining = 0 if row["status"] == "void" else row["amount_due_minor"] - row["amount_paid_minor"]
    return {
        "object": "invoice",
        "id": row["id"],
        "number": row["number"],
        "status": row["status"],
        "kind": row["kind"],
        "customer": row["external_id"],
        "customer_id": row["customer_id"],
        "subscription": row["subscription_id"],
        "subscriptions": row["subscription_ids"],
        "currency": currency,
        "period": {"start": row["period_start"], "end": row["period_end"]},
        "subtotal": amount(row["subtotal_minor"]),
        "discount": amount(row["discount_minor"]),
        "tax": amount(row["tax_minor"]),
        "total": amount(row["total_minor"]),
        "credits_applied": amount(row["credits_applied_minor"]),
        "amount_due": amount(row["amount_due_minor"]),
        "amount_paid": amount(row["amount_paid_minor"]),
        "amount_remaining": amount(remaining),
        "amount_credited": amount(row["credited_minor"]),
        "amount_refunded": amount(row["refunded_minor"]),
        "discounts": row["discounts"],
        "taxes": row["taxes"],
        "lines": [_to_line(row, line, explain=explain) for line in lines],
        "as_of": row["as_of"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
        "draft_until": row["draft_until"],
        "issued_at": row["finalized_at"],
        "finalized_at": row["finalized_at"],
        "due_at": row["due_at"],
        "paid_at": row["paid_at"],
        "voided_at": row["voided_at"],
        "marked_uncollectible_at": row["uncollectible_at"],
        "dunning": None if row["overdue_at"] is None else _to_dunning(row),
    }


def _to_dunning(row: Row) -> InvoiceDunningView:
    progress = DunningProgress() if row["dunning"] is None else msgspec.convert(row["dunning"], DunningProgress)
    next_step_at = row["dunning_at"] if row["status"] == "open" else None
    return {
        "status": "over" if next_step_at is None else "running",
        "overdue_at": row["overdue_at"],
        "attempts": progress.attempts,
        "reminders": progress.reminders,
        "next_step_at": next_step_at,
        "blocks_at": row["blocks_at"],
        "final": progress.schedule.final,
        "failure": None if next_step_at is None else row["dunning_failure"],
    }


def line_id_of(invoice: Row, position: int) -> str:
    """The id of a line of a stored invoice."""
    return line_id(
        invoice_id=invoice["id"],
        subscription_id=invoice["subscription_id"],
        kind=invoice["kind"],
        period_end=invoice["period_end"],
        position=position,
    )


def _to_line(invoice: Row, row: Row, *, explain: bool) -> LineView:
    currency = invoice["currency"]
    view: LineView = {
        "id": line_id_of(invoice, row["position"]),
        "subscription": row["subscription_id"],
        "key": row["key"],
        "description": row["description"],
        "quantity": text_of(row["quantity"]),
        "unit_amount": text_of(row["unit_amount"]),
        "exact": format_decimal(row["exact"]),
        "amount": format_amount(from_minor(row["amount_minor"], currency), currency),
        "currency": currency,
        "period": {"start": row["period_start"], "end": row["period_end"]},
        "price": row["price"],
    }
    if explain:
        view["explain"] = row["explain"]
    return view


def text_of(number: Decimal | None) -> str | None:
    return None if number is None else format_decimal(number)


def taxes_of(invoice: Invoice) -> list[TaxView]:
    """The taxes of an invoice that is not stored, as a stored one shows them."""
    return [
        {
            "key": tax.key,
            "name": tax.name,
            "percent": format_decimal(tax.percent),
            "inclusive": tax.inclusive,
            "base": format_amount(tax.base, invoice.currency),
            "amount": format_amount(tax.amount, invoice.currency),
        }
        for tax in invoice.taxes
    ]


def discounts_of(invoice: Invoice) -> list[dict[str, Any]]:
    """The discounts of an invoice that is not stored, as a stored one shows them."""
    return [
        {**discount.agreed, "taken": format_amount(discount.taken, invoice.currency)} for discount in invoice.discounts
    ]
