"""`POST /v1/events/void`: take back events that have been sent, one or many.

A void travels on the log behind the events it takes back, and the flow carries it out; here it is published.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.events import StoredEvent, find_events
from infra.kafka.event_log import identity_hash
from infra.postgres.shards import usage_as_of
from ingestion_api.auth import Principal
from ingestion_api.context import Context, FromContext
from ingestion_api.fields import Body
from ingestion_api.idempotency import SenderCall
from ingestion_api.problems import MISSING_FIELD
from ingestion_api.queries.event_lookup import not_found, of_another_source
from ingestion_api.queries.event_view import MAX_COPIES_IN_LIST, EventView, meter_and_view
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import Reject, Retry
from schemas.events import DEFAULT_SOURCE, MAX_FIELD_LENGTH, ChangeKind

POLL_MS = 50
MAX_VOIDS = 1_000  # of one request

router = house_router("events")

EventId = Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH, description="The sender's id.")]
Source = Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]


class EventName(Body):
    """Which event. Without `source` it is the default one, `api`."""

    id: EventId
    source: Source = DEFAULT_SOURCE


class VoidBody(Body):
    """Either one event, by `id` and `source` (without it the default one, `api`), or many, by `events`."""

    id: EventId | None = None
    source: Source = DEFAULT_SOURCE
    events: Annotated[list[EventName], Field(min_length=1, max_length=MAX_VOIDS)] | None = None


class VoidProblem(TypedDict):
    """An event of many that was not voided, and why."""

    id: str
    source: str
    code: str
    detail: str


Named = dict[bytes, EventName]  # by the hash of the identity
Found = dict[bytes, list[StoredEvent]]  # as `Named`; there are several when it came again after the dedup window


@router.post(
    "/v1/events/void",
    response_model=EventView | ListView[EventView | VoidProblem],
    operation_id="void_event",
    responses={
        202: {
            "model": EventView | ListView[EventView | VoidProblem],
            "description": "Voided in a moment; here are the events as they are now.",
        }
    },
)
def void_event(body: VoidBody, call: SenderCall, context: FromContext) -> Response:
    """Take an event back, or up to 1,000 as `events`: what it added to usage falls away, and its id stays taken. An
    event that is voided already stays so. The answer is the event, or a list in the order of `events` of each event or
    why there is none; with 202 they are voided in a moment."""
    if body.events is not None:
        for field in {"id", "source"} & body.model_fields_set:
            raise Reject.at(f"/{field}", "request.invalid_field", "Give either `events`, or the `id` of one event.")
        events = body.events
        return call.act(lambda: _void_many(context, call.principal, events, call.now))
    if body.id is None:
        raise Reject.at("/id", MISSING_FIELD, "Give the `id` of an event, or many as `events`.")
    name = EventName(id=body.id, **({"source": body.source} if "source" in body.model_fields_set else {}))
    return call.act(lambda: _void_one(context, call.principal, name, call.now))


def _void_one(context: Context, principal: Principal, name: EventName, now: datetime) -> tuple[int, EventView]:
    named = _by_identity(principal, [name])
    found = _void(context, principal, named, now)
    if not found:
        if "source" in name.model_fields_set:
            raise not_found(name.id)
        raise of_another_source(context.clickhouse, principal, name.id)
    ((event, *_),) = found.values()
    (view,) = meter_and_view(context.database, context.clickhouse, principal, [event])
    return _status_of(found), view


def _void_many(
    context: Context, principal: Principal, names: Sequence[EventName], now: datetime
) -> tuple[int, ListView[EventView | VoidProblem]]:
    named = _by_identity(principal, names)
    found = _void(context, principal, named, now)
    firsts = [events[0] for events in found.values()]
    views = meter_and_view(context.database, context.clickhouse, principal, firsts, copies=MAX_COPIES_IN_LIST)
    answers: dict[bytes, EventView | VoidProblem] = {identity: _problem(name) for identity, name in named.items()}
    answers |= dict(zip(found, views, strict=True))
    data = [answers[_identity(principal, name)] for name in names]
    return _status_of(found), {"object": "list", "data": data, "has_more": False, "next_cursor": None}


def _identity(principal: Principal, name: EventName) -> bytes:
    return identity_hash(principal.tenant_no, name.source, name.id)


def _by_identity(principal: Principal, names: Sequence[EventName]) -> Named:
    return {_identity(principal, name): name for name in names}


def _problem(name: EventName) -> VoidProblem:
    error = not_found(name.id)
    detail = error.detail
    if "source" not in name.model_fields_set:
        detail = (
            f"No event {name.id!r} of the source {DEFAULT_SOURCE!r} is stored; if it is of another, name the source."
        )
    return {"id": name.id, "source": name.source, "code": error.code, "detail": detail}


def _status_of(found: Found) -> int:
    return 200 if all(map(_is_voided, found.values())) else 202


def _is_voided(events: list[StoredEvent]) -> bool:
    return all(event.last.status == "voided" for event in events)


def _void(context: Context, principal: Principal, named: Named, now: datetime) -> Found:
    """Those of the events that are stored, voided if that is done in time.

    Publishing a void again does no harm, so a kill anywhere in here is mended by asking once more.
    """
    found = _wait_stored(context, principal, named, now)
    wanted = [identity for identity, events in found.items() if not _is_voided(events)]
    if wanted:
        context.changes.publish(tenant_no=principal.tenant_no, kind=ChangeKind.VOID, identities=wanted)
        _wait_voided(context, principal, found)
    return found


def _load(context: Context, principal: Principal, identities: Sequence[bytes]) -> Found:
    found: Found = {}
    for event in find_events(context.clickhouse, tenant_no=principal.tenant_no, identities=identities):
        found.setdefault(bytes.fromhex(event.identity), []).append(event)
    return found


def _wait_stored(context: Context, principal: Principal, named: Named, now: datetime) -> Found:
    """The events that are stored, as soon as all are, or all that was acknowledged before `now` is and they are not
    among that. Raises Retry when that takes too long to know."""
    settings = context.settings
    deadline = time.monotonic() + settings.event_change_wait_seconds
    found: Found = {}
    while True:
        with context.database.transaction() as connection:
            as_of = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
        found |= _load(context, principal, [identity for identity in named if identity not in found])
        missing = [name for identity, name in named.items() if identity not in found]
        if not missing or (as_of is not None and as_of > now):
            return found
        if time.monotonic() > deadline:
            raise Retry(
                "usage.behind",
                f"No event {missing[0].id!r} is stored, and what was sent last is not stored yet. Nothing was voided;"
                " try again.",
                retry_after_seconds=2,
            )
        time.sleep(POLL_MS / 1000)


def _wait_voided(context: Context, principal: Principal, found: Found) -> None:
    """Bring the events up to date until all are voided, or the wait is over."""
    deadline = time.monotonic() + context.settings.event_change_wait_seconds
    while True:
        found |= _load(context, principal, [identity for identity in found if not _is_voided(found[identity])])
        if all(map(_is_voided, found.values())) or time.monotonic() > deadline:
            return
        time.sleep(POLL_MS / 1000)
