"""Subscriptions: a customer on a plan, from an instant on. Billing itself is the workers': here are only its terms."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.postgres import customers, lifecycle, subscriptions
from infra.postgres.pool import PgConnection
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.control import preview
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.discount_terms import MAX_DISCOUNTS, check_discounts, set_discounts
from ingestion_api.control.grants import entitle
from ingestion_api.control.invoice_views import InvoiceView
from ingestion_api.control.lifecycle import ChangedView, draft_at
from ingestion_api.control.new_subscription import NewBody, read_new
from ingestion_api.control.subscription_terms import read_threshold
from ingestion_api.control.subscription_view import (
    Account,
    Status,
    SubscriptionView,
    find,
    load_accounts,
    tell,
    to_view,
)
from ingestion_api.control.versions import find as find_plan
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, MetadataChange, merge_metadata
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.ids import Prefix
from schemas.topics import SystemEvent

router = house_router("subscriptions")


class SubscriptionChange(Body):
    """What is absent stays as it is. `discounts` are all from now on; an `invoice_threshold` of null is taken away.
    Terms are changed by `/change`."""

    metadata: MetadataChange
    discounts: Annotated[list[dict[str, Any]] | None, Field(max_length=MAX_DISCOUNTS)] = None
    invoice_threshold: DecimalText | None = None


@router.post("/v1/subscriptions", status_code=201, response_model=ChangedView, operation_id="create_subscription")
def create_subscription(body: NewBody, call: AdminCall, context: FromContext) -> Response:
    """Put a customer on a plan. A start in the past is billed at once, one invoice a missed period. With `draft` it
    waits for `/activate`."""
    if body.preview:
        return preview.answer_unheld(call, lambda: _preview(body, call, context))

    def effect(connection: PgConnection) -> dict[str, Any]:
        account = _create(connection, body, call)
        view = to_view(account)
        tell(connection, call.principal, SystemEvent.SUBSCRIPTION_CREATED, view, call.now)
        entitle(connection, account)
        return {**view, "preview": False, "invoice": None}

    return call.perform(effect)


def _create(connection: PgConnection, body: NewBody, call: Call) -> Account:
    customer = find_customer(connection, call.tenant_id, body.customer, lock=True)
    check_not_archived(customer)
    subscription = read_new(connection, body, customer, call)
    customers.fix_currency(connection, customer_id=customer["id"], currency=subscription.currency)
    subscriptions.insert_subscription(connection, subscription, metadata=body.metadata, now=call.now)
    account = find(connection, call.tenant_id, subscription.id, call.now)
    if not body.discounts:
        return account
    set_discounts(connection, account.billed, body.discounts, now=account.now)
    return find(connection, call.tenant_id, subscription.id, call.now)


def _preview(body: NewBody, call: Call, context: Context) -> dict[str, Any]:
    """What it would be, and its first invoice."""
    invoice: InvoiceView | None = None
    with context.database.transaction() as connection, connection.transaction(force_rollback=True):
        account = _create(connection, body, call)
        draft = None
        if account.billed.next_bill_at is not None:
            draft = draft_at(connection, context, account.billed, account.billed.next_bill_at)
        view = to_view(account)
    if draft is not None:
        invoice = preview.to_view(preview.price_draft(context, draft), now=account.now)
    return {**view, "preview": True, "invoice": invoice}


@router.get("/v1/subscriptions", response_model=ListView[SubscriptionView], operation_id="list_subscriptions")
def list_subscriptions(
    principal: Reader,
    context: FromContext,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    plan: Annotated[
        str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH, description="The one they are on now.")
    ] = None,
    status: Annotated[Status | None, Query()] = None,
    parked: Annotated[
        bool | None, Query(description="Those that billing passes by, or those that it does not.")
    ] = None,
) -> Response:
    """The tenant's subscriptions, newest first."""
    before_id = check_cursor(starting_after, Prefix.SUBSCRIPTION)
    tenant_id = principal.tenant_id
    with context.database.transaction() as connection:
        rows = subscriptions.list_subscriptions(
            connection,
            tenant_id=tenant_id,
            customer_id=None if customer is None else find_customer(connection, tenant_id, customer)["id"],
            plan_id=None if plan is None else find_plan(connection, tenant_id, plan)["id"],
            status=status,
            parked=parked,
            before_id=before_id,
            limit=limit + 1,
            now=now,
        )
        accounts = {account.row["id"]: account for account in load_accounts(connection, rows, now)}
    return answer(page(rows, limit, lambda row: to_view(accounts[row["id"]])))


@router.get("/v1/subscriptions/{subscription}", response_model=SubscriptionView, operation_id="get_subscription")
def get_subscription(subscription: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """One subscription."""
    with context.database.transaction() as connection:
        account = find(connection, principal.tenant_id, subscription, now)
    return answer(to_view(account))


@router.patch("/v1/subscriptions/{subscription}", response_model=SubscriptionView, operation_id="update_subscription")
def update_subscription(
    subscription: str, body: SubscriptionChange, principal: Admin, context: FromContext, now: Now
) -> Response:
    """Change metadata, what the next invoices are discounted by, or the usage that makes an invoice."""
    if body.discounts is not None:
        check_discounts(body.discounts)
    with context.database.transaction() as connection:
        subscriptions.lock_subscription(connection, tenant_id=principal.tenant_id, subscription_id=subscription)
        account = find(connection, principal.tenant_id, subscription, now)
        _update(connection, account, body, account.now)
        view = to_view(find(connection, principal.tenant_id, subscription, now))
        tell(connection, principal, SystemEvent.SUBSCRIPTION_UPDATED, view, now)
    return answer(view)


def _update(connection: PgConnection, account: Account, body: SubscriptionChange, now: datetime) -> None:
    metadata = merge_metadata(account.row["metadata"], body.metadata)
    lifecycle.update_metadata(connection, subscription_id=account.billed.id, metadata=metadata)
    if body.discounts is not None:
        set_discounts(connection, account.billed, body.discounts, now=now)
    if "invoice_threshold" in body.model_fields_set:
        threshold = read_threshold(body.invoice_threshold, account.billed.currency)
        lifecycle.update_threshold(connection, subscription_id=account.billed.id, threshold=threshold)
