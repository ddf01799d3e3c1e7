"""Tenants, made by the operator's key. Each comes with an admin key that is shown once."""

from typing import Literal

from starlette.responses import Response

from infra.postgres.api_keys import insert_api_key
from infra.postgres.pool import PgConnection
from infra.postgres.tenants import insert_tenant
from ingestion_api.auth import Role, secret_sha256
from ingestion_api.fields import Body, Name
from ingestion_api.idempotency import OperatorCall
from ingestion_api.routing import house_router
from ingestion_api.views import ObjectView
from schemas.ids import Prefix, new_id

router = house_router("tenants")


class TenantBody(Body):
    name: Name


class TenantView(ObjectView):
    """A tenant. `api_key` is its first admin key, here and never again."""

    object: Literal["tenant"]
    name: str
    api_key: str


@router.post("/v1/tenants", status_code=201, response_model=TenantView, operation_id="create_tenant")
def create_tenant(body: TenantBody, call: OperatorCall) -> Response:
    """Make a tenant and its first admin key."""
    secret = call.make_secret()

    def effect(connection: PgConnection) -> TenantView:
        row = insert_tenant(connection, tenant_id=new_id(Prefix.TENANT), name=body.name, now=call.now)
        insert_api_key(
            connection,
            key_id=new_id(Prefix.API_KEY),
            tenant_id=row["id"],
            name="first admin key",
            role=Role.ADMIN,
            secret_sha256=secret_sha256(secret),
            now=call.now,
        )
        return {
            "object": "tenant",
            "id": row["id"],
            "name": row["name"],
            "api_key": secret,
            "metadata": row["metadata"],
            "created_at": row["created_at"],
        }

    return call.perform(effect, secret=secret)
