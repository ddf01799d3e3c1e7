"""Subscriptions: a customer on one version of a plan. Billing itself is the workers': here are only its terms."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.postgres import customers, subscriptions
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.grants import entitle
from ingestion_api.control.subscription_terms import (
    check_commitment,
    check_discounts,
    check_quantities,
    check_terms,
    read_overrides,
)
from ingestion_api.control.subscription_view import Status, SubscriptionView, find, load_accounts, tell, to_view
from ingestion_api.control.versions import MAX_PRICES, MAX_VERSION_NUMBER
from ingestion_api.control.versions import find as find_plan
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, Instant, Metadata, Reference, Unsupported
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.billing import BilledSubscription
from schemas.errors import Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_DISCOUNTS = 20

router = house_router("subscriptions")


class SubscriptionBody(Body):
    customer: Reference
    plan: Reference
    plan_version: Annotated[int | None, Field(ge=1, le=MAX_VERSION_NUMBER)] = None
    start_at: Instant | None = None
    billing_anchor: Instant | None = None
    alignment: Literal["anniversary", "calendar"] = "anniversary"
    end_at: Instant | None = None
    quantities: Annotated[dict[str, DecimalText], Field(default_factory=dict, max_length=MAX_PRICES)]
    price_overrides: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict, max_length=MAX_PRICES)]
    discounts: Annotated[list[dict[str, Any]], Field(default_factory=list, max_length=MAX_DISCOUNTS)]
    commitment: dict[str, Any] | None = None
    metadata: Metadata
    trial_days: Unsupported = None
    addons: Unsupported = None


@router.post("/v1/subscriptions", status_code=201, response_model=SubscriptionView, operation_id="create_subscription")
def create_subscription(body: SubscriptionBody, call: AdminCall) -> Response:
    """Put a customer on a plan. A start in the past is billed at once, one invoice a missed period."""
    check_discounts(body.discounts)
    check_commitment(body.commitment)
    if body.alignment == "calendar" and body.billing_anchor is not None:
        raise Reject.at(
            "/billing_anchor", "subscription.invalid_anchor", "With calendar alignment the calendar is the anchor."
        )
    return call.perform(lambda connection: _create(connection, body, call))


def _create(connection: PgConnection, body: SubscriptionBody, call: Call) -> SubscriptionView:
    customer = find_customer(connection, call.tenant_id, body.customer, lock=True)
    check_not_archived(customer)
    plan = find_plan(connection, call.tenant_id, body.plan, body.plan_version)
    if customer["currency"] not in (None, plan["currency"]):
        raise Reject.at(
            "/plan",
            "subscription.currency_mismatch",
            f"The customer pays in {customer['currency']}, the plan is in {plan['currency']}.",
        )
    customers.fix_currency(connection, customer_id=customer["id"], currency=plan["currency"])
    subscription = _map_body(connection, body, customer, plan, call)
    terms = check_terms(subscription, now=call.now)
    check_quantities(body.quantities, terms.prices)
    subscriptions.insert_subscription(connection, subscription, metadata=body.metadata, now=call.now)
    account = find(connection, call.tenant_id, subscription.id, call.now)
    view = to_view(account, call.now)
    tell(connection, call.principal, SystemEvent.SUBSCRIPTION_CREATED, view, call.now)
    entitle(connection, account)
    return view


def _map_body(
    connection: PgConnection, body: SubscriptionBody, customer: Row, plan: Row, call: Call
) -> BilledSubscription:
    start_at = body.start_at or call.now
    return BilledSubscription(
        id=new_id(Prefix.SUBSCRIPTION),
        row_version="",
        tenant_id=call.tenant_id,
        tenant_no=call.principal.tenant_no,
        customer_id=customer["id"],
        customer_no=customer["no"],
        external_id=customer["external_id"],
        plan_id=plan["id"],
        plan_version=plan["version"],
        prices=plan["prices"],
        status="draft" if start_at > call.now else "active",
        currency=plan["currency"],
        timezone=customer["timezone"],
        start_at=start_at,
        billing_anchor=body.billing_anchor or start_at,
        alignment=body.alignment,
        quantities=body.quantities,
        price_overrides=read_overrides(
            connection, body.price_overrides, plan["prices"], tenant_id=call.tenant_id, currency=plan["currency"]
        ),
        discounts=body.discounts,
        commitment=body.commitment,
        end_at=body.end_at,
        cancel_at=None,
        cancel_proration=False,
        billed_until=None,
        next_bill_at=start_at,
    )


@router.get("/v1/subscriptions", response_model=ListView[SubscriptionView], operation_id="list_subscriptions")
def list_subscriptions(
    principal: Reader,
    context: FromContext,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    plan: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    status: Annotated[Status | None, Query()] = None,
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
            before_id=before_id,
            limit=limit + 1,
            now=now,
        )
        accounts = {account.row["id"]: account for account in load_accounts(connection, rows)}
    return answer(page(rows, limit, lambda row: to_view(accounts[row["id"]], now)))


@router.get("/v1/subscriptions/{subscription}", response_model=SubscriptionView, operation_id="get_subscription")
def get_subscription(subscription: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """One subscription."""
    with context.database.transaction() as connection:
        account = find(connection, principal.tenant_id, subscription, now)
    return answer(to_view(account, now))
