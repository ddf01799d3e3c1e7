"""Payments: money for invoices, as a whole or in parts. `manual` notes money that came by itself; of others the worker
charges what the customer has named."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, cast

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.payments.providers import Provider
from infra.postgres import invoices, outbox, payments
from infra.postgres.collection import check_not_pending, load_methods, request_payments, wanted
from infra.postgres.invoice_lifecycle import lock_invoice
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import clock_now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, Metadata, Reference
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor, to_minor
from schemas.topics import SystemEvent

router = house_router("payments")


#: Bodies are strict: the word, not the enum, is what they hold.
ProviderName = Annotated[Provider, Field(strict=False)]
PaymentStatus = Literal["pending", "succeeded", "failed"]


class PaymentBody(Body):
    """`reference`: of the money, e.g. that of a bank transfer; an invoice has it once."""

    invoice: Reference
    amount: DecimalText
    provider: ProviderName = Provider.MANUAL
    reference: Annotated[str, Field(min_length=1, max_length=payments.MAX_REFERENCE_LENGTH)] | None = None
    metadata: Metadata


class PaymentView(ObjectView):
    """A payment. `customer` is the external_id of whom the invoice is addressed to. `amount_excess` was no longer due
    when it came, and is refunded. A `failed` one succeeds all the same when the customer completes it later."""

    object: Literal["payment"]
    invoice: str
    invoice_number: str
    customer: str
    currency: str
    amount: str
    amount_excess: str
    provider: str
    reference: str | None
    status: PaymentStatus
    failure_code: str | None
    decline_code: str | None
    succeeded_at: datetime | None
    failed_at: datetime | None


def to_view(row: Row) -> PaymentView:
    return cast("PaymentView", payments.describe(row))


def read_amount(text: str, currency: str, field: str = "/amount") -> int:
    """A positive amount in minor units. Raises Reject `request.invalid_field`."""
    try:
        minor = to_minor(Decimal(text), currency)
    except ValueError as error:
        raise Reject.at(field, "request.invalid_field", f"{error}.") from None
    if minor <= 0:
        raise Reject.at(field, "request.invalid_field", "Must be more than 0.")
    return minor


def pay(
    connection: PgConnection,
    invoice: Row,
    *,
    amount: Decimal,
    provider: Provider,
    reference: str | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> PaymentView:
    """Note a payment of a locked invoice, or ask for it: one by a provider is `pending` until it is charged.

    Raises Reject `payment.exceeds_due`, Conflict `customer.no_payment_method`, and what the checks raise.
    """
    payments.check_payable(invoice)
    check_not_pending(connection, invoice)
    currency = invoice["currency"]
    amount_minor = read_amount(str(amount), currency)
    remaining = invoice["amount_due_minor"] - invoice["amount_paid_minor"]
    if amount_minor > remaining:
        left = format_amount(from_minor(remaining, currency), currency)
        raise Reject.at("/amount", "payment.exceeds_due", f"Only {left} {currency} remain to be paid.")
    if provider is not Provider.MANUAL:
        return _request(connection, invoice, amount_minor, provider, reference, metadata, now)
    payment_id = new_id(Prefix.PAYMENT)
    payments.insert_payment(
        connection,
        invoice,
        payment_id=payment_id,
        amount_minor=amount_minor,
        provider=provider,
        reference=reference,
        metadata=metadata,
        now=now,
    )
    view = to_view(_find(connection, invoice["tenant_id"], payment_id))
    outbox.append(
        connection,
        tenant_id=invoice["tenant_id"],
        event=SystemEvent.PAYMENT_SUCCEEDED,
        object_id=payment_id,
        data={**view},
        now=now,
    )
    return view


def _request(
    connection: PgConnection,
    invoice: Row,
    amount_minor: int,
    provider: Provider,
    reference: str | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> PaymentView:
    """A pending payment of a locked invoice, which the worker charges within seconds."""
    if reference is not None:
        raise Reject.at("/reference", "payment.reference_given", "The provider names its payments itself.")
    methods = load_methods(connection, [invoice["customer_id"]])
    if invoice["customer_id"] not in methods or methods[invoice["customer_id"]][0]["provider"] != provider:
        raise Conflict(
            "customer.no_payment_method",
            f"The customer has no payment method that {provider} can charge, or {provider} is not connected.",
        )
    wish = replace(wanted(invoice), amount_minor=amount_minor)
    made = request_payments(connection, [wish], metadata=metadata, now=now)
    return to_view(_find(connection, invoice["tenant_id"], made[invoice["id"]]))


def _find(connection: PgConnection, tenant_id: str, payment_id: str) -> Row:
    row = payments.load_payment(connection, tenant_id=tenant_id, payment_id=payment_id)
    if row is None:
        raise NotFound("payment.not_found", f"There is no payment {payment_id!r}.")
    return row


@router.post("/v1/payments", status_code=201, response_model=PaymentView, operation_id="create_payment")
def create_payment(body: PaymentBody, call: AdminCall) -> Response:
    """Pay an open invoice, as a whole or in part, never more than remains. The last part makes it `paid`. One of
    `stripe` is answered as `pending`, and charged within seconds."""

    def effect(connection: PgConnection) -> PaymentView:
        invoice = lock_invoice(connection, tenant_id=call.tenant_id, id_or_number=body.invoice)
        return pay(
            connection,
            invoice,
            amount=Decimal(body.amount),
            provider=body.provider,
            reference=body.reference,
            metadata=body.metadata,
            now=clock_now(connection, invoice["test_clock_id"], call.now, hold=True),
        )

    return call.perform(effect)


@router.get("/v1/payments", response_model=ListView[PaymentView], operation_id="list_payments")
def list_payments(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    invoice: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    status: Annotated[PaymentStatus | None, Query()] = None,
) -> Response:
    """The tenant's payments, newest first."""
    tenant_id = principal.tenant_id
    before_id = check_cursor(starting_after, Prefix.PAYMENT)
    with context.database.transaction() as connection:
        rows = payments.list_payments(
            connection,
            tenant_id=tenant_id,
            invoice_id=None if invoice is None else invoices.find_invoice_id(connection, tenant_id, invoice),
            customer_id=None if customer is None else find_customer(connection, tenant_id, customer)["id"],
            status=status,
            before_id=before_id,
            limit=limit + 1,
        )
    return answer(page(rows, limit, to_view))


@router.get("/v1/payments/{payment}", response_model=PaymentView, operation_id="get_payment")
def get_payment(payment: str, principal: Reader, context: FromContext) -> Response:
    """One payment."""
    with context.database.transaction() as connection:
        return answer(to_view(_find(connection, principal.tenant_id, payment)))
