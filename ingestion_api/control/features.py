"""Features: what a plan can entitle to. Metered ones are limited by a meter's usage, the others by a value."""

from datetime import datetime
from typing import Literal

from starlette.responses import Response

from infra.postgres import features, meters, outbox
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Principal, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, Key, Metadata, MetadataChange, Name, Reference, merge_metadata
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from pricing.entitlements import OnUnknown
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

router = house_router("features")


class FeatureBody(Body):
    key: Key
    name: Name | None = None
    type: Literal["metered", "boolean", "static"]
    meter: Reference | None = None
    on_unknown: Literal["closed", "open"] = "closed"
    metadata: Metadata


class FeatureChange(Body):
    """What is absent stays as it is. A feature keeps its type and its meter."""

    name: Name | None = None
    on_unknown: Literal["closed", "open"] | None = None
    metadata: MetadataChange


class FeatureView(ObjectView):
    """A feature; `meter` is the key of a metered one's meter. `on_unknown`: whether a check allows its use (`open`) or
    not while nothing that knows how much is used can be asked; it says `degraded` then."""

    object: Literal["feature"]
    key: str
    name: str
    type: Literal["metered", "boolean", "static"]
    meter: str | None
    on_unknown: OnUnknown


def to_view(row: Row) -> FeatureView:
    return {
        "object": "feature",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "type": row["type"],
        "meter": row["meter"],
        "on_unknown": row["on_unknown"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, reference: str) -> Row:
    """The tenant's feature by id or key. Raises NotFound."""
    row = features.load_feature(connection, tenant_id=tenant_id, reference=reference)
    if row is None:
        raise NotFound("feature.not_found", f"There is no feature {reference!r}.")
    return row


@router.post("/v1/features", status_code=201, response_model=FeatureView, operation_id="create_feature")
def create_feature(body: FeatureBody, call: AdminCall) -> Response:
    """Make a feature. A metered one names its meter, the others none."""
    if body.type == "metered" and body.meter is None:
        raise Reject.at("/meter", "feature.invalid_meter", "A metered feature names the meter of its usage.")
    if body.type != "metered" and body.meter is not None:
        raise Reject.at("/meter", "feature.invalid_meter", f"A {body.type} feature has no meter.")

    def effect(connection: PgConnection) -> FeatureView:
        meter = _find_meter(connection, call.tenant_id, body.meter)
        row = features.insert_feature(
            connection,
            feature_id=new_id(Prefix.FEATURE),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            kind=body.type,
            meter_id=None if meter is None else meter["id"],
            on_unknown=body.on_unknown,
            metadata=body.metadata,
            now=call.now,
        )
        if row is None:
            raise Conflict("feature.already_exists", f"There is a feature {body.key!r} already.")
        view = to_view({**row, "meter": None if meter is None else meter["key"]})
        _tell(connection, call.principal, SystemEvent.FEATURE_CREATED, view, call.now)
        return view

    return call.perform(effect)


def _tell(connection: PgConnection, principal: Principal, event: SystemEvent, view: FeatureView, now: datetime) -> None:
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)


def _find_meter(connection: PgConnection, tenant_id: str, reference: str | None) -> Row | None:
    if reference is None:
        return None
    meter = meters.load_meters(connection, tenant_id=tenant_id, references=[reference]).get(reference)
    if meter is None:
        raise Reject.at("/meter", "meter.not_found", f"There is no meter {reference!r} in use.")
    return meter


@router.get("/v1/features", response_model=ListView[FeatureView], operation_id="list_features")
def list_features(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's features, newest first."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.FEATURE, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = features.list_features(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/features/{feature}", response_model=FeatureView, operation_id="get_feature")
def get_feature(feature: str, principal: Reader, context: FromContext) -> Response:
    """One feature, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, feature)))


@router.patch("/v1/features/{feature}", response_model=FeatureView, operation_id="update_feature")
def update_feature(feature: str, body: FeatureChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change what is given."""
    with context.changing(principal.tenant_id) as connection:
        row = find(connection, principal.tenant_id, feature)
        metadata = merge_metadata(row["metadata"], body.metadata)
        name = body.name or (row["key"] if "name" in body.model_fields_set else row["name"])
        on_unknown = body.on_unknown or row["on_unknown"]
        features.update_feature(connection, feature_id=row["id"], name=name, on_unknown=on_unknown, metadata=metadata)
        view = to_view({**row, "name": name, "on_unknown": on_unknown, "metadata": metadata})
        _tell(connection, principal, SystemEvent.FEATURE_UPDATED, view, now)
    return answer(view)
