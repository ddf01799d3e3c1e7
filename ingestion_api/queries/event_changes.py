"""`POST /v1/events/void` and `/replay`: changes to events that have been sent.

A change travels on the log behind the events it changes, and the flow carries it out; here it is published.
"""

import time
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Annotated, Literal

import msgspec
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.events import StoredEvent, find_events
from infra.clickhouse.history import QuarantineFilter, quarantined_pages
from infra.kafka.event_log import identity_hash
from infra.postgres.shards import usage_as_of
from ingestion_api.auth import Principal
from ingestion_api.context import Context, FromContext
from ingestion_api.fields import Body
from ingestion_api.idempotency import AdminCall, SenderCall
from ingestion_api.paging import MAX_CURSOR_LENGTH
from ingestion_api.queries.event_lookup import not_found
from ingestion_api.queries.event_view import EventView, meter_and_view
from ingestion_api.queries.events import MAX_CODE_LENGTH
from ingestion_api.queries.parameters import check_range, decode_cursor, encode_cursor, mark_of, read_instant
from ingestion_api.routing import house_router
from schemas.errors import Retry
from schemas.events import DEFAULT_SOURCE, MAX_FIELD_LENGTH, ChangeKind

POLL_MS = 50
PAGES_A_REPLAY = 10  # of QUARANTINED_PAGE identities

router = house_router("events")


class _Identity(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor of replays holds: the last identity of the answer before."""

    identity: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class VoidBody(Body):
    """Which event. Without `source` it is the default one, `api`."""

    id: str = Field(min_length=1, max_length=MAX_FIELD_LENGTH, description="The sender's id.")
    source: str = Field(default=DEFAULT_SOURCE, min_length=1, max_length=MAX_FIELD_LENGTH)


def _read_text_instant(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 instant such as 2026-01-31T12:00:00Z")
    try:
        return read_instant(value)
    except OverflowError:
        raise ValueError("must be an instant that exists in UTC") from None


OptionalInstant = Annotated[
    datetime | None,
    BeforeValidator(_read_text_instant),
    WithJsonSchema({"type": ["string", "null"], "format": "date-time"}),
]


class ReplayBody(Body):
    """Which quarantined events: those of a code, those whose own time is in [from, to); all that is left out."""

    code: str | None = Field(default=None, min_length=1, max_length=MAX_CODE_LENGTH)
    start: OptionalInstant = Field(default=None, alias="from")
    to: OptionalInstant = None
    starting_after: str | None = Field(
        default=None, max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the answer before."
    )


class ReplayView(TypedDict):
    """How many quarantined events will be judged anew. With `has_more`, ask again from `next_cursor` for the others."""

    object: Literal["replay"]
    requested: int
    has_more: bool
    next_cursor: str | None


@router.post(
    "/v1/events/void",
    response_model=EventView,
    operation_id="void_event",
    responses={202: {"model": EventView, "description": "It will be voided; here is the event as it is now."}},
)
def void_event(body: VoidBody, call: SenderCall, context: FromContext) -> Response:
    """Take an event back: what it added to usage falls away, and its id stays taken. An event that is voided already
    stays so. The answer is the event; with 202 it is voided in a moment."""
    return call.act(lambda: _void(context, call.principal, body, call.now))


def _void(context: Context, principal: Principal, body: VoidBody, now: datetime) -> tuple[int, EventView]:
    """Publishing a void again does no harm, so a kill anywhere in here is mended by asking once more."""
    identity = identity_hash(principal.tenant_no, body.source, body.id)

    def load() -> list[StoredEvent]:
        return find_events(context.clickhouse, tenant_no=principal.tenant_no, identities=[identity])

    found = _wait_stored(context, load, body.id, now)
    if not _is_voided(found):
        context.changes.publish(tenant_no=principal.tenant_no, kind=ChangeKind.VOID, identities=[identity])
        found = _wait_voided(context, load)
    (view,) = meter_and_view(context.database, context.clickhouse, principal, found[:1])
    return (200 if _is_voided(found) else 202), view


def _is_voided(found: list[StoredEvent]) -> bool:
    """Whether every first copy of the identity is; there are several when it came again after the dedup window."""
    return all(event.last.status == "voided" for event in found)


def _wait_stored(
    context: Context, load: Callable[[], list[StoredEvent]], event_id: str, now: datetime
) -> list[StoredEvent]:
    """The event, once it is stored. Raises NotFound when all that was acknowledged before `now` is stored and it is
    not among that, and Retry when that takes too long to know."""
    deadline = time.monotonic() + context.settings.event_change_wait_seconds
    while True:
        with context.database.transaction() as connection:
            as_of = usage_as_of(
                connection, topic=context.settings.events_topic, partitions=context.settings.events_partitions
            )
        found = load()
        if found:
            return found
        if as_of is not None and as_of > now:
            raise not_found(event_id)
        if time.monotonic() > deadline:
            raise Retry(
                "usage.behind",
                f"No event {event_id!r} is stored, and what was sent last is not stored yet; try again.",
                retry_after_seconds=2,
            )
        time.sleep(POLL_MS / 1000)


def _wait_voided(context: Context, load: Callable[[], list[StoredEvent]]) -> list[StoredEvent]:
    """The event as it is when it is voided, or when the wait is over."""
    deadline = time.monotonic() + context.settings.event_change_wait_seconds
    while True:
        found = load()
        if _is_voided(found) or time.monotonic() > deadline:
            return found
        time.sleep(POLL_MS / 1000)


@router.post("/v1/events/replay", response_model=ReplayView, status_code=202, operation_id="replay_events")
def replay_events(body: ReplayBody, call: AdminCall, context: FromContext) -> Response:
    """Judge quarantined events anew, by the customers and meters of now. Those that still can't count stay."""
    check_range(body.start, body.to)
    mark = mark_of((body.code, body.start, body.to))
    after = bytes(16) if body.starting_after is None else decode_cursor(body.starting_after, _Identity, mark).identity
    return call.act(lambda: _replay(context, call.principal, body, after, mark))


def _replay(
    context: Context, principal: Principal, body: ReplayBody, after: bytes, mark: bytes
) -> tuple[int, ReplayView]:
    wanted = QuarantineFilter(tenant_no=principal.tenant_no, code=body.code, start=body.start, end=body.to)
    pages = quarantined_pages(context.clickhouse, wanted, after=after)
    requested = 0
    for page in islice(pages, PAGES_A_REPLAY):
        context.changes.publish(tenant_no=principal.tenant_no, kind=ChangeKind.REPLAY, identities=page)
        requested += len(page)
        after = page[-1]
    has_more = requested > 0 and next(pages, None) is not None
    cursor = encode_cursor(_Identity(after), mark) if has_more else None
    return 202, {"object": "replay", "requested": requested, "has_more": has_more, "next_cursor": cursor}
