"""A request's body to its good events and its rejections: in one call when all is well, else event by event."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np

from infra.intake.columns import Columns, Suspect, build_columns, check_columns
from infra.intake.element import ReadEvent, Rejection, Unreadable, id_of, read_element
from infra.intake.event import IncomingEvent
from infra.intake.split import split_array, split_lines, too_many_events
from schemas.errors import Malformed, Reject
from schemas.events import MAX_EVENTS_A_REQUEST

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NULL = msgspec.Raw(b"null")

_one = msgspec.json.Decoder(IncomingEvent)
_many = msgspec.json.Decoder(list[IncomingEvent])


class Form(StrEnum):
    """How events stand in a body."""

    JSON = "json"  # one object, or an array of them
    LINES = "lines"  # one object a line


@dataclass(frozen=True, slots=True)
class Decoded:
    """`events` holds the good ones; None: there is none. Indexes of rejections count what was sent."""

    events: Columns | None
    rejections: list[Rejection]


def decode(body: bytes, form: Form, received_micros: int, *, any_time: bool = False) -> Decoded:
    """Raises Malformed (`request.invalid_json`) when nothing can be read, TooLarge for too many events.

    `any_time`: see `check_event`.
    """
    try:
        if not body.isascii():
            body = body.removeprefix(BYTE_ORDER_MARK)
            body.decode()
        events = _read(body, form)
        if 0 < len(events) <= MAX_EVENTS_A_REQUEST:
            return Decoded(check_columns(events, received_micros, any_time=any_time), [])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Suspect):
        return _decode_each(_split(body, form), received_micros, any_time)
    if events:
        raise too_many_events()
    return Decoded(None, [])


def decode_single(body: bytes) -> IncomingEvent | None:
    """The event of a body that is one plain JSON object, not yet checked (`check_event`, `check_columns`).

    None says nothing but that `decode` must look.
    """
    if body[:1] != b"{":
        return None
    try:
        if not body.isascii():
            body.decode()
        event = _one.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if event.data == NULL else event  # as if it were not there, which `read_element` knows


def _is_array(body: bytes) -> bool:
    return body[:1] == b"[" or body.lstrip()[:1] == b"["


def _read(body: bytes, form: Form) -> list[IncomingEvent]:
    if form is Form.LINES:
        return _one.decode_lines(body)
    return _many.decode(body) if _is_array(body) else [_one.decode(body)]


def _split(body: bytes, form: Form) -> list[bytes]:
    if form is Form.LINES:
        return split_lines(body)
    if _is_array(body):
        return split_array(body)
    if body.lstrip()[:1] != b"{":
        raise Malformed("request.invalid_json", "The body is neither a JSON object nor an array of them.")
    return [body.strip()]


def _decode_each(texts: list[bytes], received_micros: int, any_time: bool) -> Decoded:
    good: list[ReadEvent] = []
    rejections: list[Rejection] = []
    unreadable: list[Unreadable] = []
    for index, text in enumerate(texts):
        try:
            good.append(read_element(text, received_micros, any_time=any_time))
        except Reject as error:
            rejections.append(Rejection(index=index, id=id_of(text), code=error.code, detail=error.detail))
            if isinstance(error, Unreadable):
                unreadable.append(error)
    if unreadable and len(unreadable) == len(texts):
        raise Malformed("request.invalid_json", unreadable[0].detail)
    if not good:
        return Decoded(None, rejections)
    columns = build_columns([read.event for read in good], np.array([read.micros for read in good], np.int64))
    columns.extensions = {index: read.extensions for index, read in enumerate(good) if read.extensions is not None}
    return Decoded(columns, rejections)
