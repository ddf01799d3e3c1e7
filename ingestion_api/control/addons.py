"""Add-ons: prices and entitlements that a subscription has beside its plan, as often as its `addons` say."""

from starlette.responses import Response

from infra.postgres import plans
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.versions import (
    AddonView,
    AfterVersion,
    PlanBody,
    Version,
    VersionBody,
    find,
    list_versions,
    make,
    make_version,
    to_view,
)
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.ids import Prefix

router = house_router("addons")


@router.post("/v1/addons", status_code=201, response_model=AddonView, operation_id="create_addon")
def create_addon(body: PlanBody, call: AdminCall) -> Response:
    """Make an add-on at version 1. A price with `"billing_period": "once"` is charged when the add-on is added."""
    return call.perform(lambda connection: make(connection, body, call, kind="addon"))


@router.post(
    "/v1/addons/{addon}/versions", status_code=201, response_model=AddonView, operation_id="create_addon_version"
)
def create_addon_version(addon: str, body: VersionBody, call: AdminCall) -> Response:
    """Make the add-on's next version. Subscriptions that have it stay on theirs."""
    return call.perform(lambda connection: make_version(connection, addon, body, call, kind="addon"))


@router.get("/v1/addons", response_model=ListView[AddonView], operation_id="list_addons")
def list_addons(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's add-ons, newest first, each at its newest version."""
    tenant_id = principal.tenant_id
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.ADDON, lambda reference: find(connection, tenant_id, reference, kind="addon")
        )
        rows = plans.list_plans(connection, tenant_id=tenant_id, before_id=before_id, limit=limit + 1, kind="addon")
    return answer(page(rows, limit, to_view))


@router.get("/v1/addons/{addon}", response_model=AddonView, operation_id="get_addon")
def get_addon(addon: str, principal: Reader, context: FromContext, version: Version = None) -> Response:
    """One add-on, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, addon, version, kind="addon")))


@router.get("/v1/addons/{addon}/versions", response_model=ListView[AddonView], operation_id="list_addon_versions")
def list_addon_versions(
    addon: str,
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: AfterVersion = None,
) -> Response:
    """The versions of an add-on, newest first."""
    with context.database.transaction() as connection:
        found = list_versions(
            connection, principal.tenant_id, addon, kind="addon", limit=limit, starting_after=starting_after
        )
    return answer(found)
