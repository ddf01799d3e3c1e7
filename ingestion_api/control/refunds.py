"""Refunds: money that goes back by the provider that took it. Credit notes and excess money make them."""

from datetime import datetime
from typing import Annotated, Literal, cast

from fastapi import Query
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import refunds
from infra.postgres.invoice_lifecycle import lock_invoice
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import clock_now
from ingestion_api.context import FromContext
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import NotFound
from schemas.ids import Prefix

router = house_router("payments")


class RefundView(TypedDict):
    """A refund of a payment. `credit_note` is null for what was paid beyond what was due; `retry_of` names the failed
    one that it repeats. One that succeeded can still fail, when the customer's bank sends the money back."""

    object: Literal["refund"]
    id: str
    payment: str
    invoice: str
    credit_note: str | None
    retry_of: str | None
    currency: str
    amount: str
    reference: str | None
    status: Literal["pending", "succeeded", "failed"]
    failure_code: str | None
    created_at: datetime
    settled_at: datetime | None


def to_view(row: Row) -> RefundView:
    return cast("RefundView", refunds.describe_refund(row))


@router.get("/v1/refunds", response_model=ListView[RefundView], operation_id="list_refunds")
def list_refunds(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    payment: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    credit_note: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
) -> Response:
    """The tenant's refunds, newest first, of one payment or credit note by its id."""
    before_id = check_cursor(starting_after, Prefix.REFUND)
    with context.database.transaction() as connection:
        rows = refunds.list_refunds(
            connection,
            tenant_id=principal.tenant_id,
            payment_id=payment,
            credit_note_id=credit_note,
            before_id=before_id,
            limit=limit + 1,
        )
    return answer(page(rows, limit, to_view))


@router.get("/v1/refunds/{refund}", response_model=RefundView, operation_id="get_refund")
def get_refund(refund: str, principal: Reader, context: FromContext) -> Response:
    """One refund."""
    with context.database.transaction() as connection:
        return answer(to_view(_find(connection, principal.tenant_id, refund)))


@router.post("/v1/refunds/{refund}/retry", status_code=201, response_model=RefundView, operation_id="retry_refund")
def retry_refund(refund: str, call: AdminCall) -> Response:
    """Try a failed refund again, as a new one. Each can be once: what failed twice is the new one's to retry."""

    def effect(connection: PgConnection) -> RefundView:
        invoice_id = _find(connection, call.tenant_id, refund)["invoice_id"]
        lock_invoice(connection, tenant_id=call.tenant_id, id_or_number=invoice_id)  # as whoever makes a note does
        row = _find(connection, call.tenant_id, refund, lock=True)
        now = clock_now(connection, row["test_clock_id"], call.now, hold=True)
        return to_view(_find(connection, call.tenant_id, refunds.retry_refund(connection, row, now=now)))

    return call.perform(effect)


def _find(connection: PgConnection, tenant_id: str, refund_id: str, *, lock: bool = False) -> Row:
    row = refunds.load_refund(connection, refund_id, tenant_id=tenant_id, lock=lock)
    if row is None:
        raise NotFound("refund.not_found", f"There is no refund {refund_id!r}.")
    return row
