"""Plans: prices and entitlements under one key. What customers have is never edited; a new version stands beside it."""

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Query
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import outbox, plans
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.control.plan_terms import read_entitlements, read_prices
from ingestion_api.fields import Body, Currency, Key, Metadata, Name
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_PRICES = 100
MAX_ENTITLEMENTS = 200
MAX_VERSIONS = 1_000
MAX_VERSION_NUMBER = 2**31 - 1

router = house_router("plans")

Price = Annotated[
    dict[str, Any],
    Field(
        description="`key`, `type` (fixed or usage), `meter` (usage), `model` and the model's own fields,"
        " `billing_period`, `billing_period_count`, `timing`, `prorate`, and modifiers."
    ),
]
Entitlement = Annotated[
    dict[str, Any],
    Field(
        description="`feature`, and for a metered one `limit` (null: unlimited), `reset`, `enforcement`;"
        " for a boolean or static one `value`."
    ),
]
Prices = Annotated[list[Price], Field(default_factory=list, max_length=MAX_PRICES)]
Entitlements = Annotated[list[Entitlement], Field(default_factory=list, max_length=MAX_ENTITLEMENTS)]


class PlanBody(Body):
    key: Key
    name: Name | None = None
    currency: Currency
    prices: Prices
    entitlements: Entitlements
    metadata: Metadata


class VersionBody(Body):
    """All prices and entitlements of the new version; nothing is taken over from the one before."""

    prices: Prices
    entitlements: Entitlements


class EntitlementView(TypedDict):
    """What a plan entitles to. A metered feature has limit, reset and enforcement, the others a value."""

    feature: str
    type: Literal["metered", "boolean", "static"]
    limit: NotRequired[str | None]
    reset: NotRequired[str]
    enforcement: NotRequired[Literal["hard", "soft"]]
    value: NotRequired[Any]


class PlanView(ObjectView):
    """A plan at one version."""

    object: Literal["plan"]
    key: str
    name: str
    currency: str
    version: int
    prices: list[dict[str, Any]]
    entitlements: list[EntitlementView]
    version_created_at: datetime


def to_view(row: Row) -> PlanView:
    return {
        "object": "plan",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "currency": row["currency"],
        "version": row["version"],
        "prices": row["prices"],
        "entitlements": [_to_entitlement(each) for each in row["entitlements"]],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
        "version_created_at": row["version_created_at"],
    }


def _to_entitlement(stored: dict[str, Any]) -> EntitlementView:
    shown: Any = {name: value for name, value in stored.items() if name != "feature_id"}
    return shown


def find(connection: PgConnection, tenant_id: str, reference: str, version: int | None = None) -> Row:
    """The tenant's plan by id or key, at a version or the newest. Raises NotFound."""
    row = plans.load_plan(connection, tenant_id=tenant_id, reference=reference, version=version)
    if row is None:
        which = "" if version is None else f" at version {version}"
        raise NotFound("plan.not_found", f"There is no plan {reference!r}{which}.")
    return row


@router.post("/v1/plans", status_code=201, response_model=PlanView, operation_id="create_plan")
def create_plan(body: PlanBody, call: AdminCall) -> Response:
    """Make a plan at version 1."""

    def effect(connection: PgConnection) -> PlanView:
        plan = plans.insert_plan(
            connection,
            plan_id=new_id(Prefix.PLAN),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            currency=body.currency,
            metadata=body.metadata,
            now=call.now,
        )
        if plan is None:
            raise Conflict("plan.already_exists", f"There is a plan {body.key!r} already.")
        return _add_version(connection, call, plan, body, SystemEvent.PLAN_CREATED)

    return call.perform(effect)


@router.post("/v1/plans/{plan}/versions", status_code=201, response_model=PlanView, operation_id="create_plan_version")
def create_plan_version(plan: str, body: VersionBody, call: AdminCall) -> Response:
    """Make the plan's next version. Subscriptions stay on theirs; new ones take the newest."""

    def effect(connection: PgConnection) -> PlanView:
        row = plans.lock_plan(connection, tenant_id=call.tenant_id, reference=plan)
        if row is None:
            raise NotFound("plan.not_found", f"There is no plan {plan!r}.")
        return _add_version(connection, call, row, body, SystemEvent.PLAN_VERSION_CREATED)

    return call.perform(effect)


def _add_version(
    connection: PgConnection, call: Call, plan: Row, body: PlanBody | VersionBody, event: SystemEvent
) -> PlanView:
    version = plans.insert_version(
        connection,
        plan_id=plan["id"],
        prices=read_prices(connection, body.prices, tenant_id=call.tenant_id, currency=plan["currency"]),
        entitlements=read_entitlements(connection, body.entitlements, tenant_id=call.tenant_id),
        now=call.now,
    )
    if version["version"] > MAX_VERSIONS:
        raise Conflict("plan.too_many_versions", f"A plan has at most {MAX_VERSIONS} versions; make another plan.")
    view = to_view({**plan, **version, "created_at": plan["created_at"], "version_created_at": version["created_at"]})
    outbox.append(connection, tenant_id=call.tenant_id, event=event, object_id=view["id"], data={**view}, now=call.now)
    return view


@router.get("/v1/plans", response_model=ListView[PlanView], operation_id="list_plans")
def list_plans(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's plans, newest first, each at its newest version."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.PLAN, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = plans.list_plans(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/plans/{plan}", response_model=PlanView, operation_id="get_plan")
def get_plan(
    plan: str,
    principal: Reader,
    context: FromContext,
    version: Annotated[int | None, Query(ge=1, le=MAX_VERSION_NUMBER, description="The newest when absent.")] = None,
) -> Response:
    """One plan, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, plan, version)))


@router.get("/v1/plans/{plan}/versions", response_model=ListView[PlanView], operation_id="list_plan_versions")
def list_plan_versions(
    plan: str,
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: Annotated[str | None, Query(max_length=10, description="A version's number.")] = None,
) -> Response:
    """The versions of a plan, newest first."""
    if starting_after is not None and not (starting_after.isascii() and starting_after.isdigit()):
        raise Reject.at("/starting_after", "request.invalid_field", "Give `next_cursor` or the number of a version.")
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, plan)
        rows = plans.list_versions(
            connection,
            plan_id=row["id"],
            below=None if starting_after is None else min(int(starting_after), MAX_VERSION_NUMBER),
            limit=limit + 1,
        )
    return answer(page(rows, limit, to_view, cursor="version"))
