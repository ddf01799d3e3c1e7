"""Invoices as they were issued: lists and single ones. Nothing here computes; see `preview` for what is to come."""

from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.responses import Response

from infra.postgres import invoices
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.invoice_views import InvoiceStatus, InvoiceView, to_view
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import NotFound
from schemas.ids import Prefix

router = house_router("invoices")

Expand = Annotated[
    Literal["explain"] | None, Query(description="`explain` adds to every line the rows that it adds up from.")
]


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
        return answer(load_view(connection, principal.tenant_id, invoice))


def load_view(connection: PgConnection, tenant_id: str, invoice: str) -> InvoiceView:
    """One invoice as it is stored, with its lines explained, by its id or its number. Raises NotFound."""
    row = invoices.load_invoice(connection, tenant_id=tenant_id, id_or_number=invoice)
    if row is None:
        raise NotFound("invoice.not_found", f"There is no invoice {invoice!r}.")
    lines = invoices.load_lines(connection, [row["id"]])
    return to_view(row, lines[row["id"]], explain=True)
