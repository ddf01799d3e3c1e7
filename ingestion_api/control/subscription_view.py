"""Subscriptions as they are shown, and how they are found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from infra.postgres import outbox, subscriptions
from infra.postgres.billing import load_subscriptions
from infra.postgres.pool import PgConnection, Row
from ingestion_api.auth import Principal
from ingestion_api.control.subscription_terms import current_period
from ingestion_api.views import ObjectView, Period
from pricing.terms import read_terms
from schemas.billing import BilledSubscription
from schemas.errors import NotFound
from schemas.topics import SystemEvent

Status = Literal["draft", "trialing", "active", "past_due", "paused", "canceled", "ended"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A subscription twice: its row, with the status at an instant, and what billing knows of it."""

    row: Row
    billed: BilledSubscription


def to_view(account: Account, now: datetime) -> SubscriptionView:
    """The subscription as it is at `now`, the instant that its row was read for."""
    row = account.row
    period = current_period(read_terms(account.billed), now)
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


def find(connection: PgConnection, tenant_id: str, subscription_id: str, now: datetime) -> Account:
    """The tenant's subscription. Raises NotFound."""
    row = subscriptions.load_subscription(connection, tenant_id=tenant_id, subscription_id=subscription_id, now=now)
    if row is None:
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    return load_accounts(connection, [row])[0]


def load_accounts(connection: PgConnection, rows: Sequence[Row]) -> list[Account]:
    """The same subscriptions as billing knows them, in the same order."""
    billed = {each.id: each for each in load_subscriptions(connection, [row["id"] for row in rows])}
    return [Account(row=row, billed=billed[row["id"]]) for row in rows]


def tell(
    connection: PgConnection, principal: Principal, event: SystemEvent, view: SubscriptionView, now: datetime
) -> None:
    """Write the system event of a change."""
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
