"""`GET /v1/events` and `GET /v1/events/{id}`: what became of an event."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.responses import Response

from infra.clickhouse.event_list import EventFilter, EventPosition, list_events, position_of
from infra.postgres.meters import load_event_types
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.context import Context, FromContext
from ingestion_api.control import customers
from ingestion_api.paging import DEFAULT_LIMIT, LongLimit
from ingestion_api.queries.event_lookup import find
from ingestion_api.queries.event_meters import KnownMeter, Metered, load_meters, meter_events
from ingestion_api.queries.event_view import MAX_COPIES_IN_LIST, EventView, meter_and_view, view_events
from ingestion_api.queries.parameters import (
    Cursor,
    CustomerReference,
    From,
    To,
    check_range,
    decode_cursor,
    encode_cursor,
    query_mark,
)
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.events import MAX_FIELD_LENGTH

Status = Literal["counted", "unmatched", "quarantined", "voided", "duplicate"]
MAX_CODE_LENGTH = 64
#: Stored events that one request looks at. A meter made later decides whether an unmatched event counts, and only its
#: windows tell; where most of the events looked at fall through, the page is short and says where to go on.
MAX_EXAMINED_EVENTS = 5_000
EXAMINED_AT_ONCE = 1_000

router = house_router("events")


@router.get("/v1/events", response_model=ListView[EventView], operation_id="list_events")
def get_events(
    request: Request,
    principal: Reader,
    context: FromContext,
    customer: CustomerReference = None,
    event_type: Annotated[str | None, Query(alias="type", min_length=1, max_length=MAX_FIELD_LENGTH)] = None,
    subject: Annotated[str | None, Query(min_length=1, max_length=MAX_FIELD_LENGTH)] = None,
    source: Annotated[str | None, Query(min_length=1, max_length=MAX_FIELD_LENGTH)] = None,
    status: Annotated[Status | None, Query(description="`duplicate`: events with later copies.")] = None,
    code: Annotated[str | None, Query(min_length=1, max_length=MAX_CODE_LENGTH)] = None,
    start: From = None,
    to: To = None,
    limit: LongLimit = DEFAULT_LIMIT,
    starting_after: Cursor = None,
) -> Response:
    """The tenant's stored events, each once with what became of it, the newest time first. `from` and `to` are of the
    events' own time. A page may be shorter than `limit` and still have more after it."""
    check_range(start, to)
    mark = query_mark(request)
    after = None if starting_after is None else decode_cursor(starting_after, EventPosition, mark)
    customer_no = metered_types = None
    if customer is not None or status == "counted":
        with context.database.transaction() as connection:
            if customer is not None:
                customer_no = int(customers.find(connection, principal.tenant_id, customer)["no"])
            metered_types = load_event_types(connection, tenant_id=principal.tenant_id)
    wanted = EventFilter(
        tenant_no=principal.tenant_no,
        customer_no=customer_no,
        type=event_type,
        subject=subject,
        source=source,
        statuses=_STORED_STATUSES.get(status),
        metered_types=metered_types if status == "counted" else None,
        code=code,
        start=start,
        end=to,
        with_copies=status == "duplicate",
    )
    found, meters, next_position = _examine(context, principal, wanted, status, after, limit)
    return answer(
        {
            "object": "list",
            "data": view_events(
                context.database, context.clickhouse, principal, found, meters, copies=MAX_COPIES_IN_LIST
            )
            if found
            else [],
            "has_more": next_position is not None,
            "next_cursor": None if next_position is None else encode_cursor(next_position, mark),
        }
    )


#: As which an event of this status may be stored; None and `duplicate`: as any.
_STORED_STATUSES: dict[str | None, Sequence[str]] = {
    "counted": ("counted", "unmatched"),
    "unmatched": ("unmatched",),
    "quarantined": ("quarantined",),
    "voided": ("voided",),
}


def _examine(
    context: Context,
    principal: Principal,
    wanted: EventFilter,
    status: str | None,
    after: EventPosition | None,
    limit: int,
) -> tuple[list[Metered], list[KnownMeter], EventPosition | None]:
    """Up to `limit` events of the status, the meters of their types, and the place to go on from, if there is more."""
    metered_status = status in ("counted", "unmatched")
    found: list[Metered] = []
    meters: dict[str, list[KnownMeter]] = {}
    examined = 0
    while True:
        at_once = EXAMINED_AT_ONCE if metered_status and examined else limit - len(found)
        events = list_events(context.clickhouse, wanted, after=after, limit=at_once + 1)
        shown = events[:at_once]
        new_types = {event.type for event in shown} - meters.keys()
        if new_types:
            with context.database.transaction() as connection:
                known = load_meters(connection, tenant_id=principal.tenant_id, types=new_types)
            meters |= {name: [each for each in known if each.entry.event_type == name] for name in new_types}
        all_meters = [meter for of_type in meters.values() for meter in of_type]
        for metered in meter_events(context.clickhouse, shown, all_meters):
            examined += 1
            after = position_of(metered.event)
            if not metered_status or metered.status == status:
                found.append(metered)
            if len(found) == limit:
                more = len(events) > len(shown) or metered.event is not shown[-1]
                return found, all_meters, after if more else None
        if len(events) <= len(shown):
            return found, all_meters, None
        if examined >= MAX_EXAMINED_EVENTS:
            return found, all_meters, after


@router.get("/v1/events/{event_id:path}", response_model=EventView, operation_id="get_event")
def get_event(
    event_id: str,
    principal: Reader,
    context: FromContext,
    source: Annotated[
        str | None,
        Query(min_length=1, max_length=MAX_FIELD_LENGTH, description="Needed where several sources use the same id."),
    ] = None,
) -> Response:
    """One event by the sender's id. An event shows here once it is stored, a moment after it was accepted."""
    event = find(context.clickhouse, principal, event_id, source)
    (view,) = meter_and_view(context.database, context.clickhouse, principal, [event])
    return answer(view)
