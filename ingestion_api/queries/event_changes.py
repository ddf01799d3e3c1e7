"""`POST /v1/events/replay`: judge quarantined events anew.

A change travels on the log behind the events it changes, and the flow carries it out; here it is published.
"""

from datetime import datetime
from itertools import islice
from typing import Annotated, Literal

import msgspec
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.history import QuarantineFilter, quarantined_pages
from ingestion_api.auth import Principal
from ingestion_api.context import Context, FromContext
from ingestion_api.fields import Body
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import MAX_CURSOR_LENGTH
from ingestion_api.queries.parameters import check_range, decode_cursor, encode_cursor, mark_of, read_instant
from ingestion_api.routing import house_router
from schemas.events import ChangeKind

#: As which an event may be quarantined: what the flow says, and what `schemas.matching` does.
QuarantineCode = Literal["event.unknown_subject", "event.invalid_value", "event.invalid_data"]
PAGES_A_REPLAY = 10  # of QUARANTINED_PAGE identities

router = house_router("events")


class _Identity(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor of replays holds: the last identity of the answer before."""

    identity: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


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

    code: QuarantineCode | None = None
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


@router.post("/v1/events/replay", response_model=ReplayView, status_code=202, operation_id="replay_events")
def replay_events(call: AdminCall, context: FromContext, body: ReplayBody | None = None) -> Response:
    """Judge quarantined events anew, by the customers and meters of now. Those that still can't count stay. Without a
    body it is all of them."""
    body = body or ReplayBody()
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
