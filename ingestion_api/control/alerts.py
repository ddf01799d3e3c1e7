"""Alerts: be told when usage, a balance or a running cost comes to a threshold, once a crossing, a period."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import alerts, features, meters, outbox
from infra.postgres.billing import load_subscription
from infra.postgres.pool import PgConnection, Row
from infra.postgres.wallets.rows import load_wallet
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.fields import Body, DecimalText, Metadata, Reference
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_ALERTS = 1_000  # of a tenant
MAX_PERCENT = Decimal(10_000)
INVALID_SUBJECT = "alert.invalid_subject"
INVALID_THRESHOLD = "alert.invalid_threshold"
SUBJECTS = ("meter", "feature", "wallet", "subscription")

router = house_router("alerts")


class ThresholdBody(Body):
    """An `amount` of what is measured, or a `percent` of a feature's limit. A decimal alone is an amount."""

    amount: DecimalText | None = None
    percent: DecimalText | None = None


def _read_threshold(value: object) -> object:
    return value if isinstance(value, dict) else {"amount": value}


class AlertBody(Body):
    """One of `meter`, `feature`, `wallet`, `subscription`. Without `customer`, each of the tenant's is judged by
    itself. `period`: of a meter's usage, in the customer's time zone; a month unless you say so."""

    meter: Reference | None = None
    feature: Reference | None = None
    wallet: Reference | None = None
    subscription: Reference | None = None
    threshold: Annotated[ThresholdBody, BeforeValidator(_read_threshold)]
    customer: Reference | None = None
    period: Literal["day", "week", "month"] | None = None
    metadata: Metadata


class ThresholdView(TypedDict, total=False):
    """One of the two."""

    amount: str
    percent: str


class AlertView(ObjectView):
    """An alert. `customer` is null for all; `archived_at` says since when it tells nothing more."""

    object: Literal["alert"]
    meter: str | None
    feature: str | None
    wallet: str | None
    subscription: str | None
    threshold: ThresholdView
    customer: str | None
    period: Literal["day", "week", "month"] | None
    archived_at: datetime | None


def to_view(row: Row) -> AlertView:
    threshold = alerts.threshold_of(row)
    return {
        "object": "alert",
        "id": row["id"],
        "meter": row["meter"],
        "feature": row["feature"],
        "wallet": row["wallet_id"],
        "subscription": row["subscription_id"],
        "threshold": {"amount": threshold["amount"]} if "amount" in threshold else {"percent": threshold["percent"]},
        "customer": row["customer"],
        "period": row["period"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, alert_id: str) -> Row:
    """The tenant's alert, in use or not. Raises NotFound."""
    row = alerts.load_alert(connection, tenant_id=tenant_id, alert_id=alert_id)
    if row is None:
        raise NotFound("alert.not_found", f"There is no alert {alert_id!r}.")
    return row


@router.post("/v1/alerts", status_code=201, response_model=AlertView, operation_id="create_alert")
def create_alert(body: AlertBody, call: AdminCall) -> Response:
    """Be told by `alert.triggered` when the threshold is reached: once a customer and period, within seconds."""
    _check(body)

    def effect(connection: PgConnection) -> AlertView:
        if alerts.count_alerts(connection, tenant_id=call.tenant_id) >= MAX_ALERTS:
            raise Conflict("alert.too_many", f"There are {MAX_ALERTS} alerts already; delete one.")
        threshold, alert_id = body.threshold, new_id(Prefix.ALERT)
        row = {
            "id": alert_id,
            "tenant_id": call.tenant_id,
            **_subject(connection, call.tenant_id, body),
            "amount": None if threshold.amount is None else Decimal(threshold.amount),
            "percent": None if threshold.percent is None else Decimal(threshold.percent),
            "period": None if body.meter is None else body.period or "month",
            "metadata": body.metadata,
            "created_at": call.now,
        }
        alerts.insert_alert(connection, row)
        return _told(connection, SystemEvent.ALERT_CREATED, find(connection, call.tenant_id, alert_id), call.now)

    return call.perform(effect)


@router.get("/v1/alerts", response_model=ListView[AlertView], operation_id="list_alerts")
def list_alerts(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's alerts, newest first, without those that were deleted."""
    before_id = check_cursor(starting_after, Prefix.ALERT)
    with context.database.transaction() as connection:
        rows = alerts.list_alerts(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/alerts/{alert}", response_model=AlertView, operation_id="get_alert")
def get_alert(alert: str, principal: Reader, context: FromContext) -> Response:
    """One alert, deleted or not."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, alert)))


@router.delete("/v1/alerts/{alert}", response_model=AlertView, operation_id="delete_alert")
def delete_alert(alert: str, principal: Admin, context: FromContext, now: Now) -> Response:
    """Be told nothing more. Once more is the same answer."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, alert)
        if not alerts.archive_alert(connection, alert_id=row["id"], now=now):
            return answer(to_view(find(connection, principal.tenant_id, row["id"])))
        return answer(
            _told(connection, SystemEvent.ALERT_DELETED, find(connection, principal.tenant_id, row["id"]), now)
        )


def _check(body: AlertBody) -> None:
    """Whether the fields belong together. Raises Reject."""
    named = [name for name in SUBJECTS if getattr(body, name) is not None]
    if len(named) != 1:
        pointer = f"/{named[1]}" if named else "/meter"
        raise Reject.at(pointer, INVALID_SUBJECT, f"Name exactly one of {', '.join(SUBJECTS)}.")
    if body.period is not None and body.meter is None:
        raise Reject.at("/period", INVALID_SUBJECT, "Only the usage of a meter has a period of its own.")
    threshold = body.threshold
    if (threshold.amount is None) == (threshold.percent is None):
        raise Reject.at("/threshold", INVALID_THRESHOLD, "Say either an amount or a percent.")
    if threshold.percent is not None:
        if body.feature is None:
            raise Reject.at(
                "/threshold/percent", INVALID_THRESHOLD, "Only a feature has a limit to be a percentage of."
            )
        if not 0 < Decimal(threshold.percent) <= MAX_PERCENT:
            raise Reject.at("/threshold/percent", INVALID_THRESHOLD, f"Must be above 0 and at most {MAX_PERCENT}.")
    if threshold.amount is not None and body.wallet is None and Decimal(threshold.amount) <= 0:
        raise Reject.at("/threshold/amount", INVALID_THRESHOLD, "Must be above 0.")


def _subject(connection: PgConnection, tenant_id: str, body: AlertBody) -> dict[str, str | None]:
    """The ids of what an alert is about. Raises Reject `….not_found`."""
    ids: dict[str, str | None] = dict.fromkeys(f"{name}_id" for name in (*SUBJECTS, "customer"))
    customer = None if body.customer is None else _customer(connection, tenant_id, body.customer)
    ids["customer_id"] = customer
    if body.meter is not None:
        meter = meters.load_meters(connection, tenant_id=tenant_id, references=[body.meter]).get(body.meter)
        if meter is None:
            raise Reject.at("/meter", "meter.not_found", f"There is no meter {body.meter!r} in use.")
        return {**ids, "meter_id": meter["id"]}
    if body.feature is not None:
        feature = features.load_feature(connection, tenant_id=tenant_id, reference=body.feature)
        if feature is None:
            raise Reject.at("/feature", "feature.not_found", f"There is no feature {body.feature!r}.")
        if feature["type"] != "metered":
            raise Reject.at("/feature", "feature.not_metered", f"Of a {feature['type']} feature nothing is used.")
        return {**ids, "feature_id": feature["id"]}
    if body.wallet is not None:
        wallet = load_wallet(connection, tenant_id=tenant_id, wallet_id=body.wallet)
        if wallet is None:
            raise Reject.at("/wallet", "wallet.not_found", f"There is no wallet {body.wallet!r}.")
        return {**ids, "wallet_id": wallet["id"], "customer_id": _owner(customer, wallet["customer_id"])}
    reference = body.subscription or ""
    subscription = load_subscription(connection, tenant_id=tenant_id, subscription_id=reference)
    if subscription is None:
        raise Reject.at("/subscription", "subscription.not_found", f"There is no subscription {reference!r}.")
    return {**ids, "subscription_id": subscription.id, "customer_id": _owner(customer, subscription.customer_id)}


def _customer(connection: PgConnection, tenant_id: str, reference: str) -> str:
    try:
        return find_customer(connection, tenant_id, reference)["id"]
    except NotFound as error:
        raise Reject.at("/customer", "customer.not_found", error.detail) from None


def _owner(named: str | None, owner: str) -> str:
    if named not in (None, owner):
        raise Reject.at("/customer", "alert.invalid_customer", "It belongs to another customer.")
    return owner


def _told(connection: PgConnection, event: SystemEvent, row: Row, now: datetime) -> AlertView:
    view = to_view(row)
    outbox.append(connection, tenant_id=row["tenant_id"], event=event, object_id=view["id"], data={**view}, now=now)
    return view
