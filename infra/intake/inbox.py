"""One CloudEvent from one Kafka message, by the Kafka protocol binding of CloudEvents 1.0."""

import msgspec

from infra.intake.columns import Columns
from infra.intake.decode import Form, decode
from schemas.errors import Malformed, Reject
from schemas.events import MAX_EVENT_BYTES

BINARY_PREFIX = "ce_"
BINARY_MARK = "ce_specversion"
BINARY_ID = "ce_id"
#: Longer than any good event can be, however it is written.
MAX_MESSAGE_BYTES = 4 * MAX_EVENT_BYTES


def read_message(value: bytes, headers: dict[str, bytes], received_micros: int, *, any_time: bool = False) -> Columns:
    """The event of a message: binary mode (`ce_…` headers and the data) or structured (the whole event as JSON).

    `headers` has names in lower case. Raises Malformed, Reject with the code of what is wrong.
    """
    if len(value) > MAX_MESSAGE_BYTES:
        raise Reject("event.too_large", f"the message has {len(value)} bytes; an event has at most {MAX_EVENT_BYTES}")
    if BINARY_MARK in headers or BINARY_ID in headers:
        value = _structured(value, headers)
    if value.lstrip()[:1] != b"{":
        raise Malformed("request.invalid_json", "a message holds one event: a JSON object")
    decoded = decode(value, Form.JSON, received_micros, any_time=any_time)
    if decoded.events is None:
        [rejection] = decoded.rejections
        raise Reject(rejection.code, rejection.detail)
    return decoded.events


def _structured(value: bytes, headers: dict[str, bytes]) -> bytes:
    event: dict[str, object] = {}
    try:
        for name, content in headers.items():
            if name.startswith(BINARY_PREFIX):
                event[name.removeprefix(BINARY_PREFIX)] = content.decode()
        if value.strip():
            value.decode()
            event["data"] = msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("request.invalid_json", f"an event in binary mode can't be read: {error}") from None
    return msgspec.json.encode(event)
