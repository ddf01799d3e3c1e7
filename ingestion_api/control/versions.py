"""What plans and add-ons share: bodies, views and versions. What customers have is never edited; a new version stands
beside it."""

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from fastapi import Query
from pydantic import Field
from typing_extensions import TypedDict

from infra.postgres import outbox, plans
from infra.postgres.plans import Kind
from infra.postgres.pool import PgConnection, Row
from ingestion_api.control.plan_terms import read_entitlements, read_prices
from ingestion_api.fields import Body, Currency, Key, Metadata, Name
from ingestion_api.idempotency import Call
from ingestion_api.paging import page
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

MAX_PRICES = 100
MAX_ENTITLEMENTS = 200
MAX_VERSIONS = 1_000
MAX_VERSION_NUMBER = 2**31 - 1

NOUNS: dict[Kind, str] = {"plan": "plan", "addon": "add-on"}
PREFIXES: dict[Kind, Prefix] = {"plan": Prefix.PLAN, "addon": Prefix.ADDON}
CREATED: dict[Kind, SystemEvent] = {"plan": SystemEvent.PLAN_CREATED, "addon": SystemEvent.ADDON_CREATED}
VERSION_CREATED: dict[Kind, SystemEvent] = {
    "plan": SystemEvent.PLAN_VERSION_CREATED,
    "addon": SystemEvent.ADDON_VERSION_CREATED,
}

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


class VersionedView(ObjectView):
    """A plan or an add-on at one version."""

    key: str
    name: str
    currency: str
    version: int
    prices: list[dict[str, Any]]
    entitlements: list[EntitlementView]
    version_created_at: datetime


class PlanView(VersionedView):
    """A plan at one version."""

    object: Literal["plan"]


class AddonView(VersionedView):
    """An add-on at one version."""

    object: Literal["addon"]


Version = Annotated[int | None, Query(ge=1, le=MAX_VERSION_NUMBER, description="The newest when absent.")]
AfterVersion = Annotated[str | None, Query(max_length=10, description="A version's number.")]


def to_view(row: Row) -> dict[str, Any]:
    """The view of a plan or an add-on."""
    return {
        "object": row["kind"],
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "currency": row["currency"],
        "version": row["version"],
        "prices": row["prices"],
        "entitlements": [
            {name: value for name, value in each.items() if name != "feature_id"} for each in row["entitlements"]
        ],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
        "version_created_at": row["version_created_at"],
    }


def find(
    connection: PgConnection, tenant_id: str, reference: str, version: int | None = None, *, kind: Kind = "plan"
) -> Row:
    """The tenant's plan or add-on by id or key, at a version or the newest. Raises NotFound."""
    row = plans.load_plan(connection, tenant_id=tenant_id, reference=reference, version=version, kind=kind)
    if row is None:
        which = "" if version is None else f" at version {version}"
        raise NotFound(f"{kind}.not_found", f"There is no {NOUNS[kind]} {reference!r}{which}.")
    return row


def make(connection: PgConnection, body: PlanBody, call: Call, *, kind: Kind) -> dict[str, Any]:
    """Make a plan or an add-on at version 1. Raises Conflict for a key that is taken, Reject for wrong terms."""
    row = plans.insert_plan(
        connection,
        plan_id=new_id(PREFIXES[kind]),
        tenant_id=call.tenant_id,
        key=body.key,
        name=body.name or body.key,
        currency=body.currency,
        metadata=body.metadata,
        now=call.now,
        kind=kind,
    )
    if row is None:
        raise Conflict(f"{kind}.already_exists", f"There is a {NOUNS[kind]} {body.key!r} already.")
    return _add_version(connection, call, row, body, CREATED[kind])


def make_version(
    connection: PgConnection, reference: str, body: VersionBody, call: Call, *, kind: Kind
) -> dict[str, Any]:
    """Make the next version. Raises NotFound, Conflict for one too many, Reject for wrong terms."""
    row = plans.lock_plan(connection, tenant_id=call.tenant_id, reference=reference, kind=kind)
    if row is None:
        raise NotFound(f"{kind}.not_found", f"There is no {NOUNS[kind]} {reference!r}.")
    return _add_version(connection, call, row, body, VERSION_CREATED[kind])


def _add_version(
    connection: PgConnection, call: Call, plan: Row, body: PlanBody | VersionBody, event: SystemEvent
) -> dict[str, Any]:
    version = plans.insert_version(
        connection,
        plan_id=plan["id"],
        prices=read_prices(connection, body.prices, tenant_id=call.tenant_id, currency=plan["currency"]),
        entitlements=read_entitlements(connection, body.entitlements, tenant_id=call.tenant_id),
        now=call.now,
    )
    if version["version"] > MAX_VERSIONS:
        noun = NOUNS[plan["kind"]]
        raise Conflict(
            f"{plan['kind']}.too_many_versions", f"A {noun} has at most {MAX_VERSIONS} versions; make another {noun}."
        )
    view = to_view({**plan, **version, "created_at": plan["created_at"], "version_created_at": version["created_at"]})
    outbox.append(connection, tenant_id=call.tenant_id, event=event, object_id=view["id"], data=view, now=call.now)
    return view


def list_versions(
    connection: PgConnection, tenant_id: str, reference: str, *, kind: Kind, limit: int, starting_after: str | None
) -> ListView[dict[str, Any]]:
    """A page of versions, newest first. Raises NotFound, and Reject for a cursor that is no number."""
    if starting_after is not None and not (starting_after.isascii() and starting_after.isdigit()):
        raise Reject.at("/starting_after", "request.invalid_field", "Give `next_cursor` or the number of a version.")
    row = find(connection, tenant_id, reference, kind=kind)
    rows = plans.list_versions(
        connection,
        plan_id=row["id"],
        below=None if starting_after is None else min(int(starting_after), MAX_VERSION_NUMBER),
        limit=limit + 1,
    )
    return page(rows, limit, to_view, cursor="version")
