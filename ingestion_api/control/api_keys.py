"""API keys of a tenant. The secret is shown once; what is stored is its SHA-256."""

from datetime import datetime
from typing import Literal

from starlette.responses import Response

from infra.postgres import api_keys
from infra.postgres.pool import PgConnection, Row
from infra.postgres.tenants import ROOT_KEY_ID
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Principal, Scope, secret_sha256
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.fields import Body, Name
from ingestion_api.idempotency import AdminCall, SecretCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, Forbidden, NotFound
from schemas.ids import Prefix, new_id

router = house_router("api keys")


class ApiKeyBody(Body):
    name: Name
    role: Literal["admin", "ingest", "read", "check"]


class ApiKeyView(ObjectView):
    """An API key, without its secret."""

    object: Literal["api_key"]
    name: str
    role: Literal["operator", "admin", "ingest", "read", "check"]
    revoked_at: datetime | None


class NewApiKeyView(ApiKeyView):
    """A key just made; `secret` is shown here and never again."""

    secret: str


def to_view(row: Row) -> ApiKeyView:
    return {
        "object": "api_key",
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "revoked_at": row["revoked_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


@router.post("/v1/api_keys", status_code=201, response_model=NewApiKeyView, operation_id="create_api_key")
def create_api_key(body: ApiKeyBody, call: SecretCall) -> Response:
    """Make a key with one role: `admin` (all of the tenant), `ingest`, `read` or `check`."""
    secret = call.make_secret()

    def effect(connection: PgConnection) -> NewApiKeyView:
        row = api_keys.insert_api_key(
            connection,
            key_id=new_id(Prefix.API_KEY),
            tenant_id=call.tenant_id,
            name=body.name,
            role=body.role,
            secret_sha256=secret_sha256(secret),
            now=call.now,
        )
        return {**to_view(row), "secret": secret}

    return call.perform(effect, secret=secret)


@router.get("/v1/api_keys", response_model=ListView[ApiKeyView], operation_id="list_api_keys")
def list_api_keys(
    principal: Admin, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's keys, revoked ones too."""
    before_id = check_cursor(starting_after, Prefix.API_KEY)
    with context.database.transaction() as connection:
        rows = api_keys.list_api_keys(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/api_keys/{api_key}", response_model=ApiKeyView, operation_id="get_api_key")
def get_api_key(api_key: str, principal: Admin, context: FromContext) -> Response:
    """One key."""
    with context.database.transaction() as connection:
        row = api_keys.load_api_key(connection, tenant_id=principal.tenant_id, key_id=api_key)
    if row is None:
        raise _not_found(api_key)
    return answer(to_view(row))


@router.post("/v1/api_keys/{api_key}/revoke", response_model=ApiKeyView, operation_id="revoke_api_key")
def revoke_api_key(api_key: str, call: AdminCall, context: FromContext) -> Response:
    """Shut a key for good. It opens nothing from now on here, and within seconds in other processes."""
    revoked: list[bytes] = []

    def effect(connection: PgConnection) -> ApiKeyView:
        row = _revoke(connection, api_key, principal=call.principal, now=call.now)
        revoked.append(row["secret_sha256"])
        return to_view(row)

    response = call.perform(effect, status=200)
    _forget(context, revoked)
    return response


@router.delete("/v1/api_keys/{api_key}", response_model=ApiKeyView, operation_id="delete_api_key")
def delete_api_key(api_key: str, principal: Admin, context: FromContext, now: Now) -> Response:
    """The same as revoke: a key is kept, with its `revoked_at`."""
    with context.database.transaction() as connection:
        row = _revoke(connection, api_key, principal=principal, now=now)
    _forget(context, [row["secret_sha256"]])
    return answer(to_view(row))


def _revoke(connection: PgConnection, api_key: str, *, principal: Principal, now: datetime) -> Row:
    if api_key == principal.key_id:
        raise Conflict("api_key.in_use", "A key can't revoke itself: use another one, so that nobody locks the door.")
    if api_key == ROOT_KEY_ID and not principal.may(Scope.OPERATE):
        raise Forbidden(
            "auth.forbidden", "METERLINE_ROOT_KEY is the operator's; only a key that may operate revokes it."
        )
    row = api_keys.revoke_api_key(connection, tenant_id=principal.tenant_id, key_id=api_key, now=now)
    if row is None:
        raise _not_found(api_key)
    return row


def _forget(context: Context, digests: list[bytes]) -> None:
    for digest in digests:
        context.keys.forget(digest)


def _not_found(api_key: str) -> NotFound:
    return NotFound("api_key.not_found", f"There is no API key {api_key!r}.")
