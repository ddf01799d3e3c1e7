"""Stripe: connecting a tenant's account, what its customers pay with, and the events that it sends."""

from datetime import datetime
from typing import Annotated, Any, Literal, cast

from fastapi import Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.payments.providers import Provider
from infra.payments.stripe_api import is_signed
from infra.postgres import customers, outbox
from infra.postgres.payment_providers import load_provider, load_provider_by_id, remove_provider, save_provider
from infra.postgres.pool import PgConnection, Row
from infra.postgres.provider_events import note_event
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.control.customers import check_not_archived, find
from ingestion_api.fields import Body
from ingestion_api.routing import decode_json, house_router
from schemas.errors import Conflict, Malformed, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_SECRET_LENGTH = 255
SHOWN_CHARACTERS = 4  # of a key, at its end

router = house_router("payments")


class StripeBody(Body):
    """`secret_key`: `sk_…` or a restricted `rk_…`; `webhook_secret`: `whsec_…` of the endpoint made at Stripe."""

    secret_key: Annotated[str, Field(max_length=MAX_SECRET_LENGTH, pattern=r"^(sk|rk)_[\x21-\x7e]{8,}$")]
    webhook_secret: Annotated[str, Field(max_length=MAX_SECRET_LENGTH, pattern=r"^whsec_[\x21-\x7e]{8,}$")]


class ProviderView(TypedDict):
    """A connected account. The secrets are never shown; `secret_key` is masked but for its end."""

    object: Literal["payment_provider"]
    id: str
    provider: str
    secret_key: str
    events_path: str
    created_at: datetime
    updated_at: datetime


def to_view(row: Row) -> ProviderView:
    return {
        "object": "payment_provider",
        "id": row["id"],
        "provider": row["provider"],
        "secret_key": f"{row['secret_key'][:3]}…{row['secret_key'][-SHOWN_CHARACTERS:]}",
        "events_path": f"/providers/stripe/{row['id']}/events",
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


@router.put("/v1/payment_providers/stripe", response_model=ProviderView, operation_id="connect_stripe")
def connect_stripe(body: StripeBody, principal: Admin, context: FromContext, now: Now) -> Response:
    """Connect the tenant's Stripe account, or replace its secrets. Have Stripe send its events to `events_path`."""
    with context.database.transaction() as connection:
        row = save_provider(
            connection,
            provider_id=new_id(Prefix.PAYMENT_PROVIDER),
            tenant_id=principal.tenant_id,
            provider=Provider.STRIPE,
            secret_key=body.secret_key,
            webhook_secret=body.webhook_secret,
            api_base=context.settings.stripe_api_base,
            now=now,
        )
        view = to_view(row)
        outbox.append(
            connection,
            tenant_id=principal.tenant_id,
            event=SystemEvent.PAYMENT_PROVIDER_CONNECTED,
            object_id=row["id"],
            data={**view},
            now=now,
        )
    return answer(view)


@router.get("/v1/payment_providers/stripe", response_model=ProviderView, operation_id="get_stripe")
def get_stripe(principal: Reader, context: FromContext) -> Response:
    """The connected account, without its secrets."""
    with context.database.transaction() as connection:
        return answer(to_view(_connected(connection, principal.tenant_id)))


@router.delete("/v1/payment_providers/stripe", status_code=204, operation_id="disconnect_stripe")
def disconnect_stripe(principal: Admin, context: FromContext, now: Now) -> Response:
    """Forget the account and its secrets, once nothing is pending there."""
    with context.database.transaction() as connection:
        row = _connected(connection, principal.tenant_id)
        if not remove_provider(connection, tenant_id=principal.tenant_id, provider=Provider.STRIPE):
            raise Conflict("payment_provider.busy", "A payment or a refund is pending; wait for its outcome.")
        outbox.append(
            connection,
            tenant_id=principal.tenant_id,
            event=SystemEvent.PAYMENT_PROVIDER_REMOVED,
            object_id=row["id"],
            data={**to_view(row)},
            now=now,
        )
    return Response(status_code=204)


def _connected(connection: PgConnection, tenant_id: str) -> Row:
    row = load_provider(connection, tenant_id=tenant_id, provider=Provider.STRIPE)
    if row is None:
        raise NotFound("payment_provider.not_found", "Stripe is not connected.")
    return row


class PaymentMethodBody(Body):
    """What is charged without asking: a customer and a payment method of the connected account."""

    provider: Literal["stripe"]
    customer: Annotated[str, Field(max_length=MAX_SECRET_LENGTH, pattern=r"^cus_[A-Za-z0-9_]+$")]
    payment_method: Annotated[str, Field(max_length=MAX_SECRET_LENGTH, pattern=r"^(pm|card|src|ba)_[A-Za-z0-9_]+$")]


class PaymentMethodView(TypedDict):
    provider: str
    customer: str
    payment_method: str


_METHOD = "/v1/customers/{customer}/payment_method"


@router.put(_METHOD, response_model=PaymentMethodView, operation_id="set_payment_method")
def set_payment_method(
    customer: str, body: PaymentMethodBody, principal: Admin, context: FromContext, now: Now
) -> Response:
    """Let invoices of the customer be charged to this by themselves from now on. `has_payment_method` becomes true."""
    method = body.model_dump()
    with context.changing(principal.tenant_id) as connection:
        _set_method(connection, principal.tenant_id, customer, method, now)
        _connected(connection, principal.tenant_id)  # if not, nothing was set
    return answer(method)


@router.get(_METHOD, response_model=PaymentMethodView, operation_id="get_payment_method")
def get_payment_method(customer: str, principal: Reader, context: FromContext) -> Response:
    """What the customer is charged by."""
    with context.database.transaction() as connection:
        method = find(connection, principal.tenant_id, customer)["payment_method"]
    if method is None:
        raise NotFound("customer.no_payment_method", "The customer has no payment method.")
    return answer(method)


@router.delete(_METHOD, status_code=204, operation_id="remove_payment_method")
def remove_payment_method(customer: str, principal: Admin, context: FromContext, now: Now) -> Response:
    """Charge the customer by hand only. What is pending is still charged. `has_payment_method` becomes false."""
    with context.changing(principal.tenant_id) as connection:
        _set_method(connection, principal.tenant_id, customer, None, now)
    return Response(status_code=204)


def _set_method(connection: PgConnection, tenant_id: str, reference: str, method: Any, now: datetime) -> None:
    row = find(connection, tenant_id, reference, lock=True)
    check_not_archived(row)
    customers.set_payment_method(connection, customer_id=row["id"], method=method)
    outbox.append(
        connection,
        tenant_id=tenant_id,
        event=SystemEvent.CUSTOMER_UPDATED,
        object_id=row["id"],
        data={"id": row["id"], "external_id": row["external_id"], "has_payment_method": method is not None},
        now=now,
    )


@router.post("/providers/stripe/{account}/events", status_code=204, operation_id="take_stripe_event")
async def take_stripe_event(account: str, request: Request, context: FromContext, now: Now) -> Response:
    """What Stripe tells, signed with the account's webhook secret; no API key. Telling it again changes nothing."""
    body = await request.body()
    header = request.headers.get("stripe-signature")
    await run_in_threadpool(_take_event, context, account, body, header, now)
    return Response(status_code=204)


def _take_event(context: Context, account: str, body: bytes, header: str | None, now: datetime) -> None:
    with context.database.transaction() as connection:
        row = load_provider_by_id(connection, account)
        if row is None or not is_signed(body, header, row["webhook_secret"]):
            raise Malformed("payment_provider.invalid_signature", "The signature is not that of this account.")
        event = decode_json(body)
        if not isinstance(event, dict):
            raise Reject("request.invalid_field", "Not an event of Stripe.")
        note_event(connection, row["tenant_id"], cast("dict[str, Any]", event), now=now)
