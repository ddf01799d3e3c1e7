"""What people do to invoices: finalize a draft, pay, void, give up."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from infra.payments.providers import Provider
from infra.postgres import payments
from infra.postgres.invoice_lifecycle import (
    check_draft,
    finalize_drafts,
    lock_invoice,
    mark_uncollectible,
    stop_dunning,
    void_invoice,
)
from infra.postgres.pool import PgConnection, Row
from ingestion_api.clock import clock_now
from ingestion_api.control.invoice_views import InvoiceView
from ingestion_api.control.invoices import load_view
from ingestion_api.control.payments import ProviderName, pay
from ingestion_api.fields import Body
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.routing import house_router
from schemas.money import from_minor

router = house_router("invoices")


class PayBody(Body):
    """How the whole of what remains is paid; by default it was paid by hand."""

    provider: ProviderName = Provider.MANUAL
    reference: Annotated[str, Field(min_length=1, max_length=payments.MAX_REFERENCE_LENGTH)] | None = None


@router.post("/v1/invoices/{invoice}/finalize", response_model=InvoiceView, operation_id="finalize_invoice")
def finalize_invoice(invoice: str, call: AdminCall) -> Response:
    """Make a draft final: it gets its number and its due date, and the customer's credit pays of it."""

    def effect(connection: PgConnection, row: Row, now: datetime) -> None:
        check_draft(row)
        finalize_drafts(connection, [row["id"]], now=now)

    return _act(invoice, call, effect)


@router.post("/v1/invoices/{invoice}/void", response_model=InvoiceView, operation_id="void_invoice")
def post_void(invoice: str, call: AdminCall) -> Response:
    """Take an invoice back that nobody has paid money for. It keeps its number; credit that paid it is given back."""
    return _act(invoice, call, lambda connection, row, now: void_invoice(connection, row, now=now))


@router.post(
    "/v1/invoices/{invoice}/mark_uncollectible", response_model=InvoiceView, operation_id="mark_invoice_uncollectible"
)
def post_mark_uncollectible(invoice: str, call: AdminCall) -> Response:
    """Give an open invoice up. It can still be paid."""
    return _act(invoice, call, lambda connection, row, now: mark_uncollectible(connection, row, now=now))


@router.post("/v1/invoices/{invoice}/stop_dunning", response_model=InvoiceView, operation_id="stop_invoice_dunning")
def post_stop_dunning(invoice: str, call: AdminCall) -> Response:
    """Take no further step about an overdue invoice, and refuse nothing because of it. It stays open, and its
    subscription past due."""
    return _act(invoice, call, lambda connection, row, now: stop_dunning(connection, row, now=now))


@router.post("/v1/invoices/{invoice}/pay", response_model=InvoiceView, operation_id="pay_invoice")
def pay_invoice(invoice: str, call: AdminCall, body: PayBody | None = None) -> Response:
    """Pay what remains of an open invoice."""
    how = body or PayBody()

    def effect(connection: PgConnection, row: Row, now: datetime) -> None:
        payments.check_payable(row)
        remaining = from_minor(row["amount_due_minor"] - row["amount_paid_minor"], row["currency"])
        pay(connection, row, amount=remaining, provider=how.provider, reference=how.reference, metadata={}, now=now)

    return _act(invoice, call, effect)


def _act(invoice: str, call: Call, effect: Callable[[PgConnection, Row, datetime], None]) -> Response:
    """Do something to a locked invoice, and answer with what it is then."""

    def run(connection: PgConnection) -> InvoiceView:
        row = lock_invoice(connection, tenant_id=call.tenant_id, id_or_number=invoice)
        effect(connection, row, clock_now(connection, row["test_clock_id"], call.now, hold=True))
        return load_view(connection, call.tenant_id, row["id"])

    return call.perform(run, status=200)
