"""Webhook endpoints: where a tenant is told of what happens. The secret is shown when it is made and never again."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from starlette.responses import Response

from infra.postgres import outbox
from infra.postgres.pool import PgConnection, Row
from infra.postgres.webhooks import endpoints
from infra.webhooks.addresses import MAX_URL_LENGTH, check_endpoint
from infra.webhooks.matching import names_something
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, Metadata, MetadataChange, merge_metadata
from ingestion_api.idempotency import SecretCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_ENDPOINTS = 50  # of a tenant
MAX_PATTERNS = 100
MAX_DESCRIPTION_LENGTH = 500
DEFAULT_OLD_SECRET_SECONDS = 24 * 3600
MAX_OLD_SECRET_SECONDS = 7 * 24 * 3600

router = house_router("webhooks")


def _check_pattern(pattern: str) -> str:
    if not names_something(pattern):
        raise ValueError("must be the type of an event, a prefix such as invoice.*, or *")
    return pattern


Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_LENGTH)]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH)]
Pattern = Annotated[str, Field(max_length=100), AfterValidator(_check_pattern)]
Patterns = Annotated[
    list[Pattern],
    Field(min_length=1, max_length=MAX_PATTERNS, description="Types, prefixes such as `invoice.*`, or `*`."),
]


class EndpointBody(Body):
    url: Url
    events: Patterns
    description: Description = ""
    metadata: Metadata


class EndpointChange(Body):
    """What is absent stays as it is. `"disabled": false` sends again, also what has waited meanwhile."""

    url: Url | None = None
    events: Patterns | None = None
    description: Description | None = None
    disabled: bool | None = None
    metadata: MetadataChange


class RotationBody(Body):
    """The secret before signs along for so long; 0: no more."""

    old_secret_seconds: Annotated[int, Field(ge=0, le=MAX_OLD_SECRET_SECONDS)] = DEFAULT_OLD_SECRET_SECONDS


class EndpointView(ObjectView):
    """An endpoint, without its secret. `failing_since`: of the first failure after the last success."""

    object: Literal["webhook_endpoint"]
    url: str
    description: str
    events: list[str]
    disabled_at: datetime | None
    disabled_reason: Literal["requested", "gone", "failing"] | None
    failing_since: datetime | None
    old_secret_until: datetime | None


class NewSecretView(EndpointView):
    """An endpoint with a secret just made, shown here and never again."""

    secret: str


def to_view(row: Row) -> EndpointView:
    return {
        "object": "webhook_endpoint",
        "id": row["id"],
        "url": row["url"],
        "description": row["description"],
        "events": row["events"],
        "disabled_at": row["disabled_at"],
        "disabled_reason": row["disabled_reason"],
        "failing_since": row["failing_since"],
        "old_secret_until": row["old_secret_until"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, endpoint_id: str, *, lock: bool = False) -> Row:
    """The tenant's endpoint. Raises NotFound."""
    row = endpoints.load_endpoint(connection, tenant_id=tenant_id, endpoint_id=endpoint_id, lock=lock)
    if row is None:
        raise NotFound("webhook_endpoint.not_found", f"There is no webhook endpoint {endpoint_id!r}.")
    return row


@router.post(
    "/v1/webhook_endpoints", status_code=201, response_model=NewSecretView, operation_id="create_webhook_endpoint"
)
def create_webhook_endpoint(body: EndpointBody, call: SecretCall, context: FromContext) -> Response:
    """Be told of what happens from now on, signed as Standard Webhooks says with the `secret` of the answer."""
    check_endpoint(body.url, allow_private=context.settings.webhooks_allow_private)
    secret = call.make_signing_secret()

    def effect(connection: PgConnection) -> NewSecretView:
        if endpoints.count_endpoints(connection, tenant_id=call.tenant_id) >= MAX_ENDPOINTS:
            raise Conflict("webhook_endpoint.too_many", f"There are {MAX_ENDPOINTS} endpoints already; delete one.")
        row = endpoints.insert_endpoint(
            connection,
            endpoint_id=new_id(Prefix.WEBHOOK_ENDPOINT),
            tenant_id=call.tenant_id,
            url=body.url,
            description=body.description,
            events=list(dict.fromkeys(body.events)),
            secret=secret,
            metadata=body.metadata,
            now=call.now,
        )
        view = _told(connection, SystemEvent.WEBHOOK_ENDPOINT_CREATED, row, call.now)
        return {**view, "secret": secret}

    return call.perform(effect, secret=secret)


@router.get("/v1/webhook_endpoints", response_model=ListView[EndpointView], operation_id="list_webhook_endpoints")
def list_webhook_endpoints(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's endpoints, newest first, disabled ones too."""
    before_id = check_cursor(starting_after, Prefix.WEBHOOK_ENDPOINT)
    with context.database.transaction() as connection:
        rows = endpoints.list_endpoints(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get(
    "/v1/webhook_endpoints/{webhook_endpoint}", response_model=EndpointView, operation_id="get_webhook_endpoint"
)
def get_webhook_endpoint(webhook_endpoint: str, principal: Reader, context: FromContext) -> Response:
    """One endpoint."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, webhook_endpoint)))


@router.patch(
    "/v1/webhook_endpoints/{webhook_endpoint}", response_model=EndpointView, operation_id="update_webhook_endpoint"
)
def update_webhook_endpoint(
    webhook_endpoint: str, body: EndpointChange, principal: Admin, context: FromContext, now: Now
) -> Response:
    """Change where it is or what it is told, disable it or enable it again."""
    if body.url is not None:
        check_endpoint(body.url, allow_private=context.settings.webhooks_allow_private)
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, webhook_endpoint, lock=True)
        metadata = merge_metadata(row["metadata"], body.metadata)
        endpoints.update_endpoint(
            connection,
            endpoint_id=row["id"],
            url=body.url or row["url"],
            description=row["description"] if body.description is None else body.description,
            events=row["events"] if body.events is None else list(dict.fromkeys(body.events)),
            metadata=metadata,
        )
        if body.disabled:
            endpoints.disable(connection, endpoint_id=row["id"], reason="requested", now=now)
        elif body.disabled is False and row["disabled_at"] is not None:
            endpoints.enable(connection, endpoint_id=row["id"])
        changed = find(connection, principal.tenant_id, row["id"])
        return answer(_told(connection, SystemEvent.WEBHOOK_ENDPOINT_UPDATED, changed, now))


@router.delete(
    "/v1/webhook_endpoints/{webhook_endpoint}", response_model=EndpointView, operation_id="delete_webhook_endpoint"
)
def delete_webhook_endpoint(webhook_endpoint: str, principal: Admin, context: FromContext, now: Now) -> Response:
    """Delete an endpoint with its log; what waits to be delivered to it goes too. The answer shows it once more."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, webhook_endpoint, lock=True)
        endpoints.delete_endpoint(connection, endpoint_id=row["id"])
        return answer(_told(connection, SystemEvent.WEBHOOK_ENDPOINT_DELETED, row, now))


@router.post(
    "/v1/webhook_endpoints/{webhook_endpoint}/rotate_secret",
    response_model=NewSecretView,
    operation_id="rotate_webhook_secret",
)
def rotate_webhook_secret(webhook_endpoint: str, body: RotationBody, call: SecretCall) -> Response:
    """Sign with a new secret, and with the one before, too, for `old_secret_seconds`: a day unless you say so."""
    secret = call.make_signing_secret()
    seconds = body.old_secret_seconds

    def effect(connection: PgConnection) -> NewSecretView:
        row = find(connection, call.tenant_id, webhook_endpoint, lock=True)
        until = call.now + timedelta(seconds=seconds) if seconds else None
        endpoints.rotate_secret(connection, endpoint_id=row["id"], secret=secret, old_until=until)
        changed = find(connection, call.tenant_id, row["id"])
        view = _told(connection, SystemEvent.WEBHOOK_ENDPOINT_UPDATED, changed, call.now)
        return {**view, "secret": secret}

    return call.perform(effect, status=200, secret=secret)


def _told(connection: PgConnection, event: SystemEvent, row: Row, now: datetime) -> EndpointView:
    view = to_view(row)
    outbox.append(connection, tenant_id=row["tenant_id"], event=event, object_id=view["id"], data={**view}, now=now)
    return view
