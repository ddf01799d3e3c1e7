"""`GET /v1/events` and `GET /v1/events/{id}`: what became of an event."""

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import Query
from starlette.responses import Response

from infra.clickhouse.client import Client
from infra.clickhouse.events import (
    EventFilter,
    EventPosition,
    StoredEvent,
    find_events,
    list_events,
    list_sources,
    position_of,
)
from infra.kafka.event_log import identity_hash
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.context import FromContext
from ingestion_api.control import customers
from ingestion_api.paging import DEFAULT_LIMIT, LongLimit
from ingestion_api.queries.event_view import EventView, view_event, view_events
from ingestion_api.queries.parameters import (
    Cursor,
    CustomerReference,
    From,
    To,
    check_range,
    decode_cursor,
    encode_cursor,
)
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import NotFound, Reject
from schemas.events import DEFAULT_SOURCE, MAX_FIELD_LENGTH

Status = Literal["counted", "unmatched", "quarantined", "voided", "duplicate"]
MAX_CODE_LENGTH = 64

MAX_SOURCES = 100  # tried for an event that is asked for without its source

router = house_router("events")


@router.get("/v1/events", response_model=ListView[EventView], operation_id="list_events")
def get_events(
    principal: Reader,
    context: FromContext,
    customer: CustomerReference = None,
    event_type: Annotated[str | None, Query(alias="type", min_length=1, max_length=MAX_FIELD_LENGTH)] = None,
    status: Annotated[Status | None, Query(description="`duplicate`: events with later copies.")] = None,
    code: Annotated[str | None, Query(min_length=1, max_length=MAX_CODE_LENGTH)] = None,
    start: From = None,
    to: To = None,
    limit: LongLimit = DEFAULT_LIMIT,
    starting_after: Cursor = None,
) -> Response:
    """The tenant's stored events, the newest time first. `from` and `to` are of the events' own time."""
    check_range(start, to)
    after = None if starting_after is None else decode_cursor(starting_after, EventPosition)
    customer_no = None
    if customer is not None:
        with context.database.transaction() as connection:
            customer_no = int(customers.find(connection, principal.tenant_id, customer)["no"])
    wanted = EventFilter(
        tenant_no=principal.tenant_no,
        customer_no=customer_no,
        type=event_type,
        status=status,
        code=code,
        start=start,
        end=to,
    )
    # No event can be taken back yet, so none is voided.
    rows = [] if status == "voided" else list_events(context.clickhouse, wanted, after=after, limit=limit + 1)
    shown = rows[:limit]
    has_more = len(rows) > limit
    return answer(
        {
            "object": "list",
            "data": view_events(context.database, context.clickhouse, principal, shown) if shown else [],
            "has_more": has_more,
            "next_cursor": encode_cursor(position_of(shown[-1])) if has_more else None,
        }
    )


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
    return answer(view_event(context.database, context.clickhouse, principal, event))


def find(client: Client, principal: Principal, event_id: str, source: str | None) -> StoredEvent:
    """The tenant's event. Without a source the default one is tried, then all that the tenant has sent from.

    Raises NotFound, and Reject when several sources have such an event, or more sources may than are tried.
    """
    sources: list[str] = []
    for sources in [[source]] if source else _sources(client, principal):
        identities = [identity_hash(principal.tenant_no, each, event_id) for each in sources]
        found = find_events(client, tenant_no=principal.tenant_no, identities=identities) if identities else []
        if len({event.source for event in found}) > 1:
            raise Reject.at("/source", "event.ambiguous", f"Several sources have an event {event_id!r}; name one.")
        if found:
            return found[0]
    if len(sources) > MAX_SOURCES:
        detail = f"There are more than {MAX_SOURCES} sources, too many to try for {event_id!r}; name its source."
        raise Reject.at("/source", "event.source_needed", detail)
    raise NotFound("event.not_found", f"No event {event_id!r} is stored; one just accepted shows within a second.")


def _sources(client: Client, principal: Principal) -> Iterator[list[str]]:
    yield [DEFAULT_SOURCE]
    yield list_sources(client, tenant_no=principal.tenant_no, limit=MAX_SOURCES + 1)
