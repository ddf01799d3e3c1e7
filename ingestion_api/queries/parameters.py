"""Query parameters that usage and events share."""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Query, Request
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from ingestion_api.paging import MAX_CURSOR_LENGTH
from schemas.errors import Reject
from schemas.instants import parse_instant

#: What ClickHouse can hold, and so what an event may say: years 1900 to 2199.
MIN_INSTANT = datetime(1900, 1, 1, tzinfo=UTC)
MAX_INSTANT = datetime(2200, 1, 1, tzinfo=UTC)
#: A `+` that nobody percent-encoded comes out of a query string as a space.
MARK_BYTES = 8
#: Parameters that say where in an answer, and not which answer.
_PAGE_PARAMETERS = frozenset({"limit", "starting_after"})
_LOST_PLUS = re.compile(r"(T[\d:.]+) (\d\d:\d\d)", re.IGNORECASE)

Position = TypeVar("Position")


def read_instant(value: object) -> datetime:
    """An RFC 3339 instant between MIN_INSTANT and MAX_INSTANT, both included. Raises ValueError."""
    if isinstance(value, datetime):
        return value
    instant = parse_instant(_LOST_PLUS.sub(r"\1+\2", str(value)))
    if not MIN_INSTANT <= instant <= MAX_INSTANT:
        raise ValueError(f"must lie between {MIN_INSTANT:%Y} and {MAX_INSTANT:%Y}")
    return instant


def _not_empty(text: str | None) -> str | None:
    if text is not None and not text:
        raise ValueError("must not be empty; leave it out instead")
    return text


From = Annotated[
    datetime | None,
    BeforeValidator(lambda value: None if value is None else read_instant(value)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(alias="from", description="The first instant that counts. Default: the first event."),
]
To = Annotated[
    datetime | None,
    BeforeValidator(lambda value: None if value is None else read_instant(value)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(description="The first instant that counts no more. Default: after the last event."),
]
CustomerReference = Annotated[
    str | None,
    AfterValidator(_not_empty),
    Query(max_length=255, description="A customer's id or external_id."),
]
Cursor = Annotated[str | None, Query(max_length=4 * MAX_CURSOR_LENGTH, description="`next_cursor` of the page before.")]


def check_range(start: datetime | None, end: datetime | None) -> None:
    """Raise Reject unless `from` is before `to`."""
    if start is not None and end is not None and start >= end:
        raise Reject.at("/to", "request.invalid_field", "`to` must be after `from`.")


def query_mark(request: Request) -> bytes:
    """What the parameters of a query ask for, wherever in its answer, as a few bytes; their order does not matter."""
    given = [item for item in request.query_params.multi_items() if item[0] not in _PAGE_PARAMETERS]
    return mark_of(sorted(given))


def mark_of(asked: Any) -> bytes:
    """MARK_BYTES that tell this apart from anything else that is asked for."""
    return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()[:MARK_BYTES]


def encode_cursor(position: Any, mark: bytes) -> str:
    """A place in the answer to one query, that of the mark, as text that means nothing to anybody else."""
    return base64.urlsafe_b64encode(mark + msgspec.msgpack.encode(position)).decode().rstrip("=")


def decode_cursor(cursor: str, position_type: type[Position], mark: bytes) -> Position:
    """The place that `encode_cursor` was given. Raises Reject, also when it is of another query: in another order the
    place would skip what comes before it, and nobody would see it."""
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = msgspec.msgpack.decode(packed[MARK_BYTES:], type=position_type)
    except (binascii.Error, ValueError, RecursionError):
        raise _refused("Give `next_cursor` of the page before.") from None
    if packed[:MARK_BYTES] != mark:
        raise _refused("This cursor is of another query; all but `limit` must be as it was for the page before.")
    return position


def _refused(detail: str) -> Reject:
    return Reject.at("/starting_after", "request.invalid_field", detail)
