"""Subscriptions: a customer on one version of a plan. Billing itself is the workers': here are only its terms."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.postgres import customers, entitlements, features, outbox, subscriptions
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.plans import MAX_PRICES, MAX_VERSION_NUMBER
from ingestion_api.control.plans import find as find_plan
from ingestion_api.control.subscription_terms import (
    check_commitment,
    check_discounts,
    check_quantities,
    check_terms,
    current_period,
    entitlement_terms,
    read_overrides,
    to_billed,
)
from ingestion_api.entitlements.terms import append_entries
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, Instant, Metadata, Reference, Unsupported
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView, Period
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription
from schemas.errors import NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_DISCOUNTS = 20

router = house_router("subscriptions")

Status = Literal["draft", "trialing", "active", "past_due", "paused", "canceled", "ended"]


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


class SubscriptionView(ObjectView):
    """A subscription. `customer` is its external_id, `plan` its key."""

    object: Literal["subscription"]
    customer: str
    customer_id: str
    plan: str
    plan_id: str
    plan_version: int
    status: Status
    currency: str
    timezone: str
    start_at: datetime
    billing_anchor: datetime
    alignment: Literal["anniversary", "calendar"]
    quantities: dict[str, str]
    price_overrides: dict[str, dict[str, Any]]
    discounts: list[dict[str, Any]]
    commitment: dict[str, Any] | None
    current_period: Period | None
    end_at: datetime | None
    cancel_at: datetime | None
    canceled_at: datetime | None
    next_bill_at: datetime | None
    parked_reason: str | None


def to_view(row: Row, now: datetime) -> SubscriptionView:
    """`row` of infra.postgres.subscriptions, with the status at `now`."""
    period = current_period(read_terms(to_billed(row)), now)
    return {
        "object": "subscription",
        "id": row["id"],
        "customer": row["external_id"],
        "customer_id": row["customer_id"],
        "plan": row["plan_key"],
        "plan_id": row["plan_id"],
        "plan_version": row["plan_version"],
        "status": row["status_now"],
        "currency": row["currency"],
        "timezone": row["timezone"],
        "start_at": row["start_at"],
        "billing_anchor": row["billing_anchor"],
        "alignment": row["alignment"],
        "quantities": row["quantities"],
        "price_overrides": row["price_overrides"],
        "discounts": row["discounts"],
        "commitment": row["commitment"],
        "current_period": None if period is None else {"start": period.start, "end": period.end},
        "end_at": row["end_at"],
        "cancel_at": row["cancel_at"],
        "canceled_at": row["cancel_at"] if row["status_now"] == "canceled" else None,
        "next_bill_at": row["next_bill_at"],
        "parked_reason": row["parked_reason"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, subscription_id: str, now: datetime) -> Row:
    """The tenant's subscription. Raises NotFound."""
    row = subscriptions.load_subscription(connection, tenant_id=tenant_id, subscription_id=subscription_id, now=now)
    if row is None:
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    return row


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
    _write_entitlements(connection, subscription, plan, terms)
    view = to_view(find(connection, call.tenant_id, subscription.id, call.now), call.now)
    tell(connection, call.principal, SystemEvent.SUBSCRIPTION_CREATED, view, call.now)
    append_entries(
        connection,
        entitlements.load_of_subscription(connection, subscription_id=subscription.id),
        tenant_no=call.principal.tenant_no,
    )
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


def _write_entitlements(connection: PgConnection, subscription: BilledSubscription, plan: Row, terms: Terms) -> None:
    references = [each["feature_id"] for each in plan["entitlements"]]
    meters = features.load_meter_keys(connection, feature_ids=references)
    entitlements.insert_entitlements(
        connection,
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        starts_at=subscription.start_at,
        ends_at=subscription.end_at,
        terms=entitlement_terms(plan["entitlements"], terms, meters),
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
    return answer(page(rows, limit, lambda row: to_view(row, now)))


@router.get("/v1/subscriptions/{subscription}", response_model=SubscriptionView, operation_id="get_subscription")
def get_subscription(subscription: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """One subscription."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, subscription, now)
    return answer(to_view(row, now))


def tell(
    connection: PgConnection, principal: Principal, event: SystemEvent, view: SubscriptionView, now: datetime
) -> None:
    """Write the system event of a change."""
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
