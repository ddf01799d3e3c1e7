"""Invoices as they were issued: lists and single ones. Nothing here computes; see `preview` for what is to come."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Query
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import invoices
from infra.postgres.pool import Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, Period
from schemas.errors import NotFound
from schemas.ids import Prefix
from schemas.money import format_amount, format_decimal, from_minor

router = house_router("invoices")

InvoiceStatus = Literal["draft", "open", "paid", "void", "uncollectible"]
Expand = Annotated[
    Literal["explain"] | None, Query(description="`explain` adds to every line the rows that it adds up from.")
]


class ExplainView(TypedDict):
    """One summand of a line: quantity x unit amount, or an amount alone."""

    what: str
    quantity: str | None
    unit_amount: str | None
    amount: str


class LineView(TypedDict):
    """One line. `exact` is the unrounded amount; `unit_amount` is null where tiers or modifiers say more than one."""

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


class InvoiceView(TypedDict):
    """An invoice. `customer` is its external_id. A preview has neither id nor number. `as_of`: every event that was
    acknowledged before is in its usage; null without usage."""

    object: Literal["invoice"]
    id: str | None
    number: str | None
    status: InvoiceStatus
    customer: str
    customer_id: str
    subscription: str | None
    currency: str
    period: Period
    subtotal: str
    discount: str
    tax: str
    total: str
    credits_applied: str
    amount_due: str
    amount_paid: str
    lines: list[LineView]
    as_of: datetime | None
    metadata: dict[str, str]
    created_at: datetime
    issued_at: datetime | None
    finalized_at: datetime | None


def to_view(row: Row, lines: Sequence[Row], *, explain: bool) -> InvoiceView:
    """An issued invoice with its lines."""
    currency = row["currency"]

    def amount(name: str) -> str:
        return format_amount(from_minor(row[f"{name}_minor"], currency), currency)

    return {
        "object": "invoice",
        "id": row["id"],
        "number": row["number"],
        "status": row["status"],
        "customer": row["external_id"],
        "customer_id": row["customer_id"],
        "subscription": row["subscription_id"],
        "currency": currency,
        "period": {"start": row["period_start"], "end": row["period_end"]},
        "subtotal": amount("subtotal"),
        "discount": amount("discount"),
        "tax": amount("tax"),
        "total": amount("total"),
        "credits_applied": amount("credits_applied"),
        "amount_due": amount("amount_due"),
        "amount_paid": amount("amount_paid"),
        "lines": [_to_line(line, currency, explain=explain) for line in lines],
        "as_of": row["as_of"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
        "issued_at": row["finalized_at"],
        "finalized_at": row["finalized_at"],
    }


def _to_line(row: Row, currency: str, *, explain: bool) -> LineView:
    view: LineView = {
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


@router.get("/v1/invoices", response_model=ListView[InvoiceView], operation_id="list_invoices")
def list_invoices(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    subscription: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    status: Annotated[InvoiceStatus | None, Query()] = None,
    expand: Expand = None,
) -> Response:
    """The tenant's invoices, newest first. Their lines are explained with `expand=explain`."""
    before_id = check_cursor(starting_after, Prefix.INVOICE)
    with context.database.transaction() as connection:
        rows = invoices.list_invoices(
            connection,
            tenant_id=principal.tenant_id,
            customer_id=(None if customer is None else find_customer(connection, principal.tenant_id, customer)["id"]),
            subscription_id=subscription,
            status=status,
            before_id=before_id,
            limit=limit + 1,
        )
        lines = invoices.load_lines(connection, [row["id"] for row in rows[:limit]])

    def view(row: Row) -> dict[str, Any]:
        return {**to_view(row, lines[row["id"]], explain=expand is not None)}

    return answer(page(rows, limit, view))


@router.get("/v1/invoices/{invoice}", response_model=InvoiceView, operation_id="get_invoice")
def get_invoice(
    invoice: str,
    principal: Reader,
    context: FromContext,
    _expand: Annotated[Literal["explain"] | None, Query(alias="expand")] = None,
) -> Response:
    """One invoice, by its id or its number. Its lines are always explained, asked for or not."""
    with context.database.transaction() as connection:
        row = invoices.load_invoice(connection, tenant_id=principal.tenant_id, id_or_number=invoice)
        if row is None:
            raise NotFound("invoice.not_found", f"There is no invoice {invoice!r}.")
        lines = invoices.load_lines(connection, [row["id"]])
    return answer(to_view(row, lines[row["id"]], explain=True))
