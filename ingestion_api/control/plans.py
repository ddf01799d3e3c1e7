"""Plans: prices and entitlements under one key, that a subscription is on."""

from starlette.responses import Response

from infra.postgres import plans
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.versions import (
    AfterVersion,
    PlanBody,
    PlanView,
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

router = house_router("plans")


@router.post("/v1/plans", status_code=201, response_model=PlanView, operation_id="create_plan")
def create_plan(body: PlanBody, call: AdminCall) -> Response:
    """Make a plan at version 1."""
    return call.perform(lambda connection: make(connection, body, call, kind="plan"))


@router.post("/v1/plans/{plan}/versions", status_code=201, response_model=PlanView, operation_id="create_plan_version")
def create_plan_version(plan: str, body: VersionBody, call: AdminCall) -> Response:
    """Make the plan's next version. Subscriptions stay on theirs; new ones take the newest."""
    return call.perform(lambda connection: make_version(connection, plan, body, call, kind="plan"))


@router.get("/v1/plans", response_model=ListView[PlanView], operation_id="list_plans")
def list_plans(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's plans, newest first, each at its newest version."""
    tenant_id = principal.tenant_id
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.PLAN, lambda reference: find(connection, tenant_id, reference, kind="plan")
        )
        rows = plans.list_plans(connection, tenant_id=tenant_id, before_id=before_id, limit=limit + 1, kind="plan")
    return answer(page(rows, limit, to_view))


@router.get("/v1/plans/{plan}", response_model=PlanView, operation_id="get_plan")
def get_plan(plan: str, principal: Reader, context: FromContext, version: Version = None) -> Response:
    """One plan, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, plan, version, kind="plan")))


@router.get("/v1/plans/{plan}/versions", response_model=ListView[PlanView], operation_id="list_plan_versions")
def list_plan_versions(
    plan: str,
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: AfterVersion = None,
) -> Response:
    """The versions of a plan, newest first."""
    with context.database.transaction() as connection:
        found = list_versions(
            connection, principal.tenant_id, plan, kind="plan", limit=limit, starting_after=starting_after
        )
    return answer(found)
