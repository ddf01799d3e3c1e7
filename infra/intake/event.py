"""One event as it is sent, and what must hold of it. The vectorized checks of `columns` accept nothing else."""

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec

from schemas.errors import Reject
from schemas.events import DEFAULT_SOURCE, MAX_EVENT_BYTES, MAX_FIELD_LENGTH, MAX_FUTURE_SECONDS
from schemas.instants import parse_instant, to_micros

MAX_DATA_DEPTH = 64  # objects and arrays inside each other; readers downstream recurse
#: What ClickHouse's DateTime64 can hold, as microseconds: [1900, 2200).
MIN_MICROS = to_micros(datetime(1900, 1, 1, tzinfo=UTC))
MAX_MICROS = to_micros(datetime(2200, 1, 1, tzinfo=UTC))
#: Digits of a number on end. Python reads 4,300 of a whole one, and refuses the whole text when there are more.
MAX_DIGITS = 4_000
MAX_FUTURE_MICROS = MAX_FUTURE_SECONDS * 1_000_000

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[0-9]++', re.DOTALL)
_DIGIT_BLOCK = MAX_DIGITS // 2  # in more than MAX_DIGITS on end there is a whole block of these, wherever they begin
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]++|[\]}]++', re.DOTALL)

EMPTY_DATA = msgspec.Raw(b"{}")


class IncomingEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    """A CloudEvent without extension attributes. Decoding checks types, and of `data` the grammar alone.

    Fields stand as most senders write them: the decoder looks for the next one first.
    """

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = DEFAULT_SOURCE
    type: str
    subject: str
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: msgspec.Raw = EMPTY_DATA


def check_event(event: IncomingEvent, received_micros: int, *, any_time: bool = False) -> int:
    """The microseconds of the event's time; of its receipt when it has none. Raises Reject.

    Its text must be known to be UTF-8. `any_time`: it may lie ahead, since the flow judges it by test clocks.
    """
    for name in ("id", "type", "subject", "source"):
        check_name(name, getattr(event, name))
    size = check_data(event.data)
    size += sum(len(text.encode()) for text in (event.id, event.type, event.subject, event.source))
    check_size(size)
    return received_micros if event.time is None else check_time(event.time, received_micros, any_time=any_time)


def check_name(field: str, text: str) -> None:
    """Raise Reject when a name is empty, too long, or holds control characters (CloudEvents 1.0, "Type System"), NUL
    among them."""
    if not 1 <= len(text) <= MAX_FIELD_LENGTH:
        raise Reject("event.invalid_field", f"{field} must have 1 to {MAX_FIELD_LENGTH} characters")
    if not text.isprintable() and _CONTROL.search(text):
        raise Reject("event.invalid_field", f"{field} holds a control character")


def check_size(size_bytes: int) -> None:
    """`size_bytes` counts the texts of id, source, type, subject, data and extensions."""
    if size_bytes > MAX_EVENT_BYTES:
        raise Reject("event.too_large", f"the event has {size_bytes} bytes; at most {MAX_EVENT_BYTES} are taken")


def check_time(text: str, received_micros: int, *, any_time: bool = False) -> int:
    """RFC 3339 text to microseconds since 1970. Raises Reject."""
    try:
        micros = to_micros(parse_instant(text))
    except ValueError as error:
        raise Reject("event.invalid_time", f"time: {error}") from None
    if micros < MIN_MICROS:
        raise Reject("event.invalid_time", f"time: {text!r} is before the year 1900")
    if not any_time and micros > received_micros + MAX_FUTURE_MICROS:
        raise Reject("event.time_in_future", f"time: {text!r} is more than {MAX_FUTURE_SECONDS} seconds ahead")
    if micros >= MAX_MICROS:
        raise Reject("event.time_in_future", f"time: {text!r} is after the year 2199")
    return micros


def check_data(data: msgspec.Raw) -> int:
    """The length in bytes of well-formed JSON that must be an object, not too deep, and without numbers that readers
    refuse. Raises Reject."""
    text = bytes(data)
    if text[:1] != b"{":
        raise Reject("event.invalid_data", "data must be a JSON object")
    if may_be_deep(text) and depth_of(text) > MAX_DATA_DEPTH:
        raise Reject("event.invalid_data", f"data is nested more than {MAX_DATA_DEPTH} deep")
    if may_have_long_number(text) and has_long_number(text):
        raise Reject("event.invalid_data", f"data holds a number with more than {MAX_DIGITS} digits")
    return len(text)


def may_be_deep(text: bytes) -> bool:
    """A cheap look: False means that the text can't pass MAX_DATA_DEPTH."""
    return len(text) > 2 * MAX_DATA_DEPTH and text.count(b"{") + text.count(b"[") > MAX_DATA_DEPTH


def may_have_long_number(text: bytes) -> bool:
    """A cheap look: False means that no number of the text has more than MAX_DIGITS digits on end."""
    if len(text) <= MAX_DIGITS:
        return False
    return any(text[start : start + _DIGIT_BLOCK].isdigit() for start in range(0, len(text), _DIGIT_BLOCK))


def has_long_number(text: bytes) -> bool:
    """The same of well-formed JSON, exactly: digits inside of strings are none of a number."""
    return any(len(found[0]) > MAX_DIGITS for found in _DIGITS.finditer(text) if found[0][:1] != b'"')


def depth_of(text: bytes) -> int:
    """How deep objects and arrays of well-formed JSON stand inside each other, without recursion."""
    depth = deepest = 0
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token[0] in b"[{":
            depth += len(token)
            deepest = max(deepest, depth)
        elif token[0] in b"]}":
            depth -= len(token)
    return deepest
