"""What endpoints were told: each delivery with its attempts, a test at will, and sending again."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres.pool import PgConnection, Row
from infra.postgres.webhooks import deliveries
from infra.postgres.webhooks.deliveries import Message, NewDelivery
from infra.webhooks.bodies import encode_body
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.webhook_endpoints import find as find_endpoint
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import Conflict, NotFound
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent, SystemEventMessage

router = house_router("webhooks")

Status = Literal["pending", "succeeded", "failed"]


class AttemptView(TypedDict):
    """One try. `status_code` is null when no answer came; then `error` says why. `body`: the answer's first 4 KiB."""

    attempted_at: datetime
    latency_ms: int
    status_code: int | None
    error: str | None
    body: str


class DeliveryView(TypedDict):
    """One event to one endpoint. `event` is its id and the `webhook-id` of every attempt; the newest 20 are shown."""

    id: str
    object: Literal["webhook_delivery"]
    webhook_endpoint: str
    event: str
    type: str
    status: Status
    attempt_count: int
    next_attempt_at: datetime | None
    attempts: list[AttemptView]
    created_at: datetime


def to_view(row: Row, attempts: list[Row]) -> DeliveryView:
    return {
        "id": row["id"],
        "object": "webhook_delivery",
        "webhook_endpoint": row["endpoint_id"],
        "event": row["message_id"],
        "type": row["type"],
        "status": row["status"],
        "attempt_count": row["attempts"],
        "next_attempt_at": row["next_attempt_at"],
        "attempts": [
            {
                "attempted_at": attempt["attempted_at"],
                "latency_ms": attempt["latency_ms"],
                "status_code": attempt["status_code"],
                "error": attempt["error"],
                "body": attempt["response_body"],
            }
            for attempt in attempts
        ],
        "created_at": row["created_at"],
    }


def _view(connection: PgConnection, tenant_id: str, delivery_id: str) -> DeliveryView:
    row = deliveries.load_delivery(connection, tenant_id=tenant_id, delivery_id=delivery_id)
    if row is None:
        raise NotFound("webhook_delivery.not_found", f"There is no webhook delivery {delivery_id!r}.")
    return to_view(row, deliveries.load_attempts(connection, delivery_ids=[delivery_id])[delivery_id])


@router.get(
    "/v1/webhook_endpoints/{webhook_endpoint}/deliveries",
    response_model=ListView[DeliveryView],
    operation_id="list_webhook_deliveries",
)
def list_webhook_deliveries(
    webhook_endpoint: str,
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    status: Annotated[Status | None, Query(description="Only these.")] = None,
) -> Response:
    """What the endpoint was told or is to be told, newest first; of the last 30 days."""
    before_id = check_cursor(starting_after, Prefix.WEBHOOK_DELIVERY)
    with context.database.transaction() as connection:
        endpoint = find_endpoint(connection, principal.tenant_id, webhook_endpoint)
        rows = deliveries.list_deliveries(
            connection, endpoint_id=endpoint["id"], status=status, before_id=before_id, limit=limit + 1
        )
        attempts = deliveries.load_attempts(connection, delivery_ids=[row["id"] for row in rows])
    return answer(page(rows, limit, lambda row: to_view(row, attempts[row["id"]])))


@router.get(
    "/v1/webhook_deliveries/{webhook_delivery}", response_model=DeliveryView, operation_id="get_webhook_delivery"
)
def get_webhook_delivery(webhook_delivery: str, principal: Reader, context: FromContext) -> Response:
    """One delivery."""
    with context.database.transaction() as connection:
        return answer(_view(connection, principal.tenant_id, webhook_delivery))


@router.post(
    "/v1/webhook_deliveries/{webhook_delivery}/resend",
    response_model=DeliveryView,
    operation_id="resend_webhook_delivery",
)
def resend_webhook_delivery(webhook_delivery: str, call: AdminCall) -> Response:
    """Send it again now, whatever became of it, under the same `webhook-id`; the schedule of retries begins anew."""

    def effect(connection: PgConnection) -> DeliveryView:
        view = _view(connection, call.tenant_id, webhook_delivery)
        endpoint_id = view["webhook_endpoint"]
        endpoint, rows = deliveries.lock_deliveries(
            connection, endpoint_id=endpoint_id, delivery_ids=[webhook_delivery]
        )
        if endpoint is not None and rows:
            _check_enabled(endpoint)
            deliveries.begin_anew(connection, delivery_id=webhook_delivery, now=call.now)
        return _view(connection, call.tenant_id, webhook_delivery)

    return call.perform(effect, status=200)


@router.post(
    "/v1/webhook_endpoints/{webhook_endpoint}/test",
    status_code=201,
    response_model=DeliveryView,
    operation_id="test_webhook_endpoint",
)
def test_webhook_endpoint(webhook_endpoint: str, call: AdminCall) -> Response:
    """Send this endpoint an event `webhook_endpoint.test`, whatever it listens to; the answer is its delivery."""

    def effect(connection: PgConnection) -> DeliveryView:
        endpoint = find_endpoint(connection, call.tenant_id, webhook_endpoint, lock=True)
        _check_enabled(endpoint)
        event = SystemEventMessage(
            id=new_id(Prefix.SYSTEM_EVENT),
            type=SystemEvent.WEBHOOK_ENDPOINT_TEST,
            tenant_id=call.tenant_id,
            object_id=endpoint["id"],
            data={"object": "webhook_endpoint", "id": endpoint["id"], "url": endpoint["url"]},
            created_at=call.now,
        )
        delivery = NewDelivery(new_id(Prefix.WEBHOOK_DELIVERY), call.tenant_id, endpoint["id"], event.id)
        message = Message(event.id, call.tenant_id, event.type, encode_body(event))
        deliveries.insert(connection, messages=[message], deliveries=[delivery], now=call.now)
        return _view(connection, call.tenant_id, delivery.id)

    return call.perform(effect)


def _check_enabled(endpoint: Row) -> None:
    if endpoint["disabled_at"] is not None:
        raise Conflict("webhook_endpoint.disabled", "The endpoint is disabled: enable it by `disabled: false` first.")
