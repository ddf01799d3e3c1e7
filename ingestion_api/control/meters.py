"""Meters: what of which events counts. A new one counts the past too: its first revision is built from what is stored.

How a meter is changed: `meter_changes`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import Query
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.client import ClickHouseError
from infra.clickhouse.past import first_received
from infra.postgres import meter_builds, meters, outbox
from infra.postgres.meter_builds import Reason
from infra.postgres.meter_proofs import load_results
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import usage_as_of
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.context import Context, FromContext
from ingestion_api.control.meter_terms import MeterBody, read_filters, read_group_by, read_value
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.catalogue import MeterEntry, meter_key
from schemas.errors import Conflict, NotFound
from schemas.ids import Prefix, new_id
from schemas.meters import Aggregation, Filter
from schemas.topics import SystemEvent

#: What a revision fixes.
DEFINITION = ("revision", "event_type", "aggregation", "value", "filters", "group_by")

MAX_METERS = 500  # in use, of one tenant: a flow holds them all in memory and tries those of an event's type

router = house_router("meters")

log = structlog.get_logger("meterline.api")


class FilterView(TypedDict):
    """A condition on a property; `values` are strings, numbers or booleans."""

    property: str
    op: str
    values: list[Any]


class BuildView(TypedDict):
    """How far the newest revision has come, from the stored events. `total_events` is null before it has begun."""

    revision: int
    reason: Literal["created", "changed", "repair"]
    state: Literal["waiting", "counting"]
    counted_events: int
    total_events: int | None
    created_at: datetime
    started_at: datetime | None


class ProofView(TypedDict):
    """What the proofs of the windows that answers come from say, and when the last one was. A drift stands, be there
    none in what came since, until a proof of everything finds none; `detail` says how many rows differ, and which."""

    ok: bool
    at: datetime
    detail: str | None


class MeterView(ObjectView):
    """A meter as it was last defined. `revision` rises when what it counts changes, or is counted anew.

    While `status` is `building`, answers come from the revision `active_revision`. `proof` is null until that revision
    has been proven against the stored events. `groups_over_limit_at` says when it was first seen to have more distinct
    groups than the limit: all of them are counted, and answers grow.
    """

    object: Literal["meter"]
    key: str
    name: str
    event_type: str
    aggregation: str
    value: str | None
    filters: list[FilterView]
    group_by: list[str]
    revision: int
    status: Literal["ready", "building"]
    active_revision: int
    build: BuildView | None
    proof: ProofView | None
    groups_over_limit_at: datetime | None
    archived_at: datetime | None


_literal = msgspec.json.Decoder(float_hook=Decimal)


def to_view(row: Row, build: Row | None, proof: Row | None) -> MeterView:
    """A meter; `build` is the revision that is being built, if one is, `proof` of `meter_proofs.load_results`."""
    shown = row if build is None else newest(row, build)
    return {
        "object": "meter",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "event_type": shown["event_type"],
        "aggregation": shown["aggregation"],
        "value": shown["value"],
        "filters": [
            {"property": each["property"], "op": each["op"], "values": [_literal.decode(v) for v in each["values"]]}
            for each in shown["filters"]
        ],
        "group_by": shown["group_by"],
        "revision": shown["revision"],
        "status": "ready" if build is None else "building",
        "active_revision": row["revision"],
        "build": None if build is None else _build_view(build),
        "proof": None if proof is None else _proof_view(proof),
        "groups_over_limit_at": row["groups_over_limit_at"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def newest(row: Row, build: Row | None) -> Row:
    """The meter's row with the definition that was given last, be it in use or still being built."""
    return row if build is None else {**row, **{name: build[name] for name in DEFINITION}}


def _build_view(build: Row) -> BuildView:
    return {
        "revision": build["revision"],
        "reason": build["reason"],
        "state": build["state"],
        "counted_events": build["counted_events"],
        "total_events": build["total_events"],
        "created_at": build["created_at"],
        "started_at": build["started_at"],
    }


def _proof_view(proof: Row) -> ProofView:
    detail = "; ".join([f"{proof['drifted']} rows of windows differ", *proof["examples"]])
    return {"ok": proof["ok"], "at": proof["proven_at"], "detail": None if proof["ok"] else detail}


def show(connection: PgConnection, row: Row, build: Row | None) -> MeterView:
    """The view of a meter's row, with what its last proof found; `build` as of `to_view`."""
    return to_view(row, build, load_results(connection, meter_nos=[row["no"]]).get(row["no"]))


def to_entry(row: Row) -> MeterEntry:
    """A stored meter as readers use it."""
    return MeterEntry(
        meter_no=row["no"],
        revision=row["revision"],
        event_type=row["event_type"],
        aggregation=Aggregation(row["aggregation"]),
        value=row["value"],
        filters=msgspec.convert(row["filters"], tuple[Filter, ...]),
        group_by=tuple(row["group_by"]),
    )


def find(connection: PgConnection, tenant_id: str, reference: str, *, lock: bool = False) -> Row:
    """The tenant's meter by id or key, archived or not. Raises NotFound."""
    row = meters.load_meter(connection, tenant_id=tenant_id, reference=reference, lock=lock)
    if row is None:
        raise NotFound("meter.not_found", f"There is no meter {reference!r}.")
    return row


@router.post("/v1/meters", status_code=201, response_model=MeterView, operation_id="create_meter")
def create_meter(body: MeterBody, call: AdminCall, context: FromContext) -> Response:
    """Make a meter. It counts all events of its type, those that are stored already too: `status` is `building` until
    it has, mostly for about a second."""
    value = read_value(Aggregation(body.aggregation), body.value)
    filters = read_filters(body.filters)
    group_by = read_group_by(body.group_by)

    built_until = usage_before(context, call.principal.tenant_no, body.event_type)

    def effect(connection: PgConnection) -> MeterView:
        if meters.count_meters(connection, tenant_id=call.tenant_id) >= MAX_METERS:
            raise Conflict("meter.too_many", f"A tenant has at most {MAX_METERS} meters in use; archive one.")
        row = meters.insert_meter(
            connection,
            meter_id=new_id(Prefix.METER),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            event_type=body.event_type,
            aggregation=body.aggregation,
            value=value,
            filters=filters,
            group_by=group_by,
            metadata=body.metadata,
            now=call.now,
            is_built=False,
            built_until=built_until,
        )
        if row is None:
            raise Conflict("meter.already_exists", f"There is a meter {body.key!r} already.")
        build = meter_builds.insert_revision(connection, meter=to_entry(row), reason=Reason.CREATED, now=call.now)
        view = to_view(row, build, None)
        tell(connection, call.principal, SystemEvent.METER_CREATED, view, call.now)
        meter_builds.begin(connection, tenant_no=call.principal.tenant_no, meter=to_entry(row), superseded=[])
        return view

    return call.perform(effect)


def usage_before(context: Context, tenant_no: int, event_type: str) -> datetime | None:
    """Up to when usage of the type is surely none, or all counted live: where a first build leaves answers until it is
    done. None when ClickHouse can't say."""
    with context.database.transaction() as connection:  # first: what is acknowledged before is then in ClickHouse
        settings = context.settings
        as_of = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    try:
        first = first_received(context.clickhouse, tenant_no=tenant_no, event_type=event_type)
    except ClickHouseError as error:
        log.warning("first event not found", event_type=event_type, error=f"{type(error).__name__}: {error}")
        return None
    return first or as_of


@router.get("/v1/meters", response_model=ListView[MeterView], operation_id="list_meters")
def list_meters(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
) -> Response:
    """The tenant's meters, newest first."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.METER, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = meters.list_meters(
            connection, tenant_id=principal.tenant_id, archived=archived, before_id=before_id, limit=limit + 1
        )
        numbers = [row["no"] for row in rows]
        builds = meter_builds.load_building(connection, meter_nos=numbers)
        proofs = load_results(connection, meter_nos=numbers)
    return answer(page(rows, limit, lambda row: to_view(row, builds.get(row["no"]), proofs.get(row["no"]))))


@router.get("/v1/meters/{meter}", response_model=MeterView, operation_id="get_meter")
def get_meter(meter: str, principal: Reader, context: FromContext) -> Response:
    """One meter, by id or key."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, meter)
        return answer(
            show(connection, row, meter_builds.load_building(connection, meter_nos=[row["no"]]).get(row["no"]))
        )


@router.post("/v1/meters/{meter}/archive", response_model=MeterView, operation_id="archive_meter")
def archive_meter(meter: str, call: AdminCall) -> Response:
    """Stop counting. What was counted stays readable. A meter that a feature or a price names can't be archived."""

    def effect(connection: PgConnection) -> MeterView:
        row = find(connection, call.tenant_id, meter, lock=True)
        if row["archived_at"] is not None:
            return show(connection, row, None)
        if meters.is_meter_used(connection, tenant_id=call.tenant_id, meter_id=row["id"], key=row["key"]):
            raise Conflict("meter.in_use", f"A feature or a price of a plan names the meter {row['key']!r}.")
        archived = meters.archive_meter(connection, meter_id=row["id"], now=call.now)
        superseded = meter_builds.supersede(connection, meter_no=row["no"], now=call.now)
        view = show(connection, archived, None)
        tell(connection, call.principal, SystemEvent.METER_ARCHIVED, view, call.now)
        keys = {*superseded, meter_key(to_entry(row))}
        meter_builds.end(connection, tenant_no=call.principal.tenant_no, keys=sorted(keys))
        return view

    return call.perform(effect, status=200)


def tell(connection: PgConnection, principal: Principal, event: SystemEvent, view: MeterView, now: datetime) -> None:
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
