"""Changing a meter: a new revision is built from the stored events while readers stay on the one before.

Name and metadata change at once. What the meter counts changes when its new revision has been built, in one step.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from pydantic import Field
from starlette.responses import Response

from infra.postgres import meters
from infra.postgres.meter_builds import (
    Reason,
    begin,
    end,
    insert_revision,
    load_building,
    next_revision,
    supersede,
    use,
)
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Principal
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control.meter_terms import (
    FilterBody,
    PathText,
    ValueText,
    read_filters,
    read_group_by,
    read_value,
)
from ingestion_api.control.meters import MeterView, find, newest, show, tell, to_entry, usage_before
from ingestion_api.fields import Body, MetadataChange, Name, merge_metadata
from ingestion_api.idempotency import AdminCall
from ingestion_api.routing import house_router
from schemas.catalogue import MeterEntry
from schemas.errors import Conflict
from schemas.events import MAX_FIELD_LENGTH
from schemas.meters import MAX_FILTERS, MAX_GROUPS, Aggregation
from schemas.topics import SystemEvent

router = house_router("meters")


class MeterChange(Body):
    """What is not given stays. A `value` of null takes the path away, as a count needs; `filters` and `group_by` of
    null are empty lists."""

    name: Name | None = None
    event_type: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)] | None = None
    aggregation: Literal["count", "sum", "min", "max", "avg", "latest", "unique_count", "weighted_sum"] | None = None
    value: ValueText | None = None
    filters: Annotated[list[FilterBody], Field(max_length=MAX_FILTERS)] | None = None
    group_by: Annotated[list[PathText], Field(max_length=MAX_GROUPS)] | None = None
    metadata: MetadataChange


@router.patch("/v1/meters/{meter}", response_model=MeterView, operation_id="update_meter")
def update_meter(meter: str, body: MeterChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change what is given. Where that changes what the meter counts, a new revision is built from the stored events
    (`status` is `building`), and answers come from the one before until it is done. Changing it again meanwhile
    begins anew."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, meter)
        shown = newest(row, _building(connection, row))
    built_until = usage_before(context, principal.tenant_no, body.event_type or shown["event_type"])
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, meter, lock=True)
        _check_in_use(row)
        return answer(_change(connection, body, row, principal, built_until, now))


@router.post("/v1/meters/{meter}/rebuild", response_model=MeterView, operation_id="rebuild_meter")
def rebuild_meter(meter: str, call: AdminCall) -> Response:
    """Count a meter anew from the stored events, as a new revision of the same definition."""

    def effect(connection: PgConnection) -> MeterView:
        row = find(connection, call.tenant_id, meter, lock=True)
        _check_in_use(row)
        present = _building(connection, row)
        if present is not None:
            return show(connection, row, present)  # what is being built counts everything anew
        row_no = row["no"]
        entry = msgspec.structs.replace(to_entry(row), revision=next_revision(connection, meter_no=row_no))
        build = insert_revision(connection, meter=entry, reason=Reason.REPAIR, now=call.now)
        view = show(connection, row, build)
        tell(connection, call.principal, SystemEvent.METER_UPDATED, view, call.now)
        begin(connection, tenant_no=call.principal.tenant_no, meter=entry, superseded=[])
        return view

    return call.perform(effect, status=200)


def _check_in_use(row: Row) -> None:
    if row["archived_at"] is not None:
        raise Conflict("meter.archived", f"The meter {row['key']!r} is archived.")


def _building(connection: PgConnection, row: Row) -> Row | None:
    return load_building(connection, meter_nos=[row["no"]]).get(row["no"])


def _change(
    connection: PgConnection,
    body: MeterChange,
    row: Row,
    principal: Principal,
    built_until: datetime | None,
    now: datetime,
) -> MeterView:
    given = body.model_fields_set
    metadata = merge_metadata(row["metadata"], body.metadata)
    name = body.name or (row["key"] if "name" in given else row["name"])
    row = meters.update_meter(connection, meter_id=row["id"], name=name, metadata=metadata)
    build = _building(connection, row)
    wanted = _definition(body, newest(row, build))
    active, numbered = to_entry(row), to_entry(newest(row, build))
    if wanted == numbered:
        view = show(connection, row, build)
        tell(connection, principal, SystemEvent.METER_UPDATED, view, now)
        return view
    _check_groups(connection, row, wanted)
    ended = supersede(connection, meter_no=row["no"], now=now)
    if row["is_built"] and msgspec.structs.replace(wanted, revision=active.revision) == active:
        view = show(connection, row, None)
        tell(connection, principal, SystemEvent.METER_UPDATED, view, now)
        end(connection, tenant_no=principal.tenant_no, keys=ended)
        return view
    entry = msgspec.structs.replace(wanted, revision=next_revision(connection, meter_no=row["no"]))
    build = insert_revision(connection, meter=entry, reason=Reason.CHANGED, now=now)
    if not row["is_built"]:  # nothing complete was ever there to stay on
        use(connection, entry, is_built=False, built_until=built_until)
        row = {**row, "revision": entry.revision}
    view = show(connection, row, build)
    tell(connection, principal, SystemEvent.METER_UPDATED, view, now)
    begin(connection, tenant_no=principal.tenant_no, meter=entry, superseded=ended)
    return view


def _definition(body: MeterChange, row: Row) -> MeterEntry:
    """What the meter is to count, at its present revision. Raises Reject."""
    entry = to_entry(row)
    given = body.model_fields_set
    aggregation = Aggregation(body.aggregation or row["aggregation"])
    return msgspec.structs.replace(
        entry,
        event_type=body.event_type or entry.event_type,
        aggregation=aggregation,
        value=read_value(aggregation, body.value if "value" in given else entry.value),
        filters=tuple(read_filters(body.filters or [])) if "filters" in given else entry.filters,
        group_by=tuple(read_group_by(body.group_by or [])) if "group_by" in given else entry.group_by,
    )


def _check_groups(connection: PgConnection, row: Row, wanted: MeterEntry) -> None:
    """Raises Conflict when a price needs a group that would be gone."""
    for price in meters.load_matrix_prices(connection, tenant_id=row["tenant_id"], key=row["key"]):
        missing = [name for name in price["dimensions"] if name not in wanted.group_by]
        if missing:
            raise Conflict(
                "meter.group_in_use",
                f"The price {price['price']!r} of the plan {price['plan']!r} needs the group {missing[0]!r}.",
            )
