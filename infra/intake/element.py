"""One event from its own text, field by field, so that each fault is named. The slow path, and the exact one."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import msgspec

from infra.intake.event import (
    EMPTY_DATA,
    MAX_DIGITS,
    IncomingEvent,
    check_data,
    check_event,
    check_name,
    check_size,
    has_long_number,
)
from schemas.errors import Reject
from schemas.events import DEFAULT_SOURCE, MAX_EVENT_BYTES, MAX_FIELD_LENGTH

#: A text longer than this is not even parsed: whatever its whitespace, no sender means it.
MAX_ELEMENT_BYTES = 4 * MAX_EVENT_BYTES
MAX_EXTENSIONS = 32

_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,64}")
_UNSET = b"null"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


class Unreadable(Reject):
    """The text is no JSON."""


class Rejection(msgspec.Struct, frozen=True):
    """Why an event of a request was not taken. `id` is the sender's, when it could be read."""

    index: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadEvent:
    event: IncomingEvent
    micros: int
    extensions: str | None  # JSON object text


def read_element(text: bytes, received_micros: int, *, any_time: bool = False) -> ReadEvent:
    """An event from its JSON text. Raises Reject, and Unreadable when it is no JSON at all."""
    check_size(len(text) if len(text) > MAX_ELEMENT_BYTES else 0)
    fields = _read_fields(text)
    fields = {name: raw for name, raw in fields.items() if bytes(raw) != _UNSET}
    event = IncomingEvent(
        id=_name(fields, "id"),
        type=_name(fields, "type"),
        subject=_name(fields, "subject"),
        source=_name(fields, "source") if "source" in fields else DEFAULT_SOURCE,
        time=_text(fields, "time", "event.invalid_time") if "time" in fields else None,
        data=_data(fields),
    )
    if "specversion" in fields and _text(fields, "specversion") != "1.0":
        raise Reject("event.invalid_field", 'specversion must be "1.0"')
    for name in ("datacontenttype", "dataschema"):
        if name in fields:
            _text(fields, name)
    micros = check_event(event, received_micros, any_time=any_time)
    known = {*IncomingEvent.__struct_fields__, "data_base64"}
    extensions = _extensions({name: raw for name, raw in fields.items() if name not in known})
    if extensions is not None:
        names_size = sum(len(name.encode()) for name in (event.id, event.type, event.subject, event.source))
        check_size(names_size + check_data(event.data) + len(extensions.encode()))
    return ReadEvent(event=event, micros=micros, extensions=extensions)


def id_of(text: bytes) -> str | None:
    """The sender's id of an event that was refused, if it can be found."""
    try:
        event_id = cast("dict[str, Any]", json.loads(text[:MAX_ELEMENT_BYTES], parse_int=Decimal)).get("id")
        if isinstance(event_id, str):
            event_id.encode()
            return event_id[:MAX_FIELD_LENGTH]
    except (ValueError, RecursionError, AttributeError):
        return None
    return None


def _read_fields(text: bytes) -> dict[str, msgspec.Raw]:
    try:
        text.decode()
        fields = _fields.decode(text)
    except RecursionError:
        raise Reject("event.invalid_data", "the event is nested too deep") from None
    except UnicodeDecodeError as error:
        raise Reject("event.invalid_data", f"the event's text is not UTF-8: {error}") from None
    except msgspec.ValidationError:
        raise Reject("event.invalid_field", "an event is a JSON object") from None
    except msgspec.DecodeError as error:
        _raise_for_surrogate(text)
        raise Unreadable("event.invalid_data", f"the event is no JSON: {error}") from None
    return fields


def _raise_for_surrogate(text: bytes) -> None:
    """Raise Reject when what a strict parser stumbles over is half of a surrogate pair: grammatical, but no text."""
    try:
        body = json.loads(text, parse_int=str)  # any number of digits
    except (ValueError, RecursionError):
        return
    if not isinstance(body, dict):
        return
    for name, value in cast("dict[str, Any]", body).items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            code = "event.invalid_data" if name == "data" else "event.invalid_field"
            field = name.encode("ascii", "backslashreplace").decode()
            raise Reject(code, f"{field} holds half of a surrogate pair, which is no character") from None


def _text(fields: dict[str, msgspec.Raw], name: str, code: str = "event.invalid_field") -> str:
    if bytes(fields[name])[:1] != b'"':
        raise Reject(code, f"{name} must be a string")
    return _string.decode(fields[name])


def _name(fields: dict[str, msgspec.Raw], name: str) -> str:
    if name not in fields:
        raise Reject("event.missing_field", f"{name} is required")
    text = _text(fields, name)
    check_name(name, text)
    return text


def _data(fields: dict[str, msgspec.Raw]) -> msgspec.Raw:
    if "data_base64" not in fields:
        return fields.get("data", EMPTY_DATA)
    if "data" in fields:
        raise Reject("event.invalid_data", "data and data_base64 exclude each other")
    try:
        decoded = base64.b64decode(_text(fields, "data_base64", "event.invalid_data"), validate=True)
        decoded.decode()
        return msgspec.json.decode(decoded, type=msgspec.Raw)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise Reject("event.invalid_data", f"data_base64 is no base64 of JSON: {error}") from None


def _extensions(extra: dict[str, msgspec.Raw]) -> str | None:
    """CloudEvents extension attributes as JSON object text. Raises Reject for what can be none."""
    if not extra:
        return None
    if len(extra) > MAX_EXTENSIONS:
        raise Reject("event.invalid_field", f"an event has at most {MAX_EXTENSIONS} extension attributes")
    values: dict[str, Any] = {}
    for name, raw in extra.items():
        if not _EXTENSION_NAME.fullmatch(name):
            raise Reject("event.invalid_field", f"{name[:64]!r} is no field of an event; put your own into data")
        if bytes(raw)[:1] in (b"{", b"["):
            raise Reject("event.invalid_field", f"extension {name} must be a string, a number or a boolean")
        if has_long_number(bytes(raw)):
            raise Reject("event.invalid_field", f"extension {name} has more than {MAX_DIGITS} digits")
        values[name] = raw
    return msgspec.json.encode(values).decode()
