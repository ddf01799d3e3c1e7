"""What a request says its body is: the forms of CloudEvents over HTTP, and plain JSON."""

import re
from urllib.parse import unquote_to_bytes

import msgspec

from infra.intake.decode import Form
from schemas.errors import Malformed, UnsupportedMediaType

FORMS = {
    "": Form.JSON,
    "application/json": Form.JSON,
    "application/cloudevents+json": Form.JSON,
    "application/cloudevents-batch+json": Form.JSON,
    "application/x-ndjson": Form.LINES,
    "application/ndjson": Form.LINES,
    "application/jsonl": Form.LINES,
}
BINARY_PREFIX = "ce-"
BINARY_MARKS = ("ce-id", "ce-specversion")

_JSON_TYPE = re.compile(r"(application|text)/([\w.-]+\+)?json")


def media_type_of(content_type: str) -> str:
    """The type alone, in lower case: `application/json` of `Application/JSON; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def form_of(headers: dict[str, str]) -> Form | None:
    """How events stand in the body; None: binary mode, one event whose attributes are headers.

    `headers` has names in lower case. Raises UnsupportedMediaType.
    """
    media_type = media_type_of(headers.get("content-type", ""))
    if any(mark in headers for mark in BINARY_MARKS) and not media_type.startswith("application/cloudevents"):
        if media_type and not _JSON_TYPE.fullmatch(media_type):
            raise UnsupportedMediaType(
                "request.unsupported_media_type",
                f"With ce-… headers (binary mode) the body is the event's data, and has to be JSON; {media_type!r} is"
                " not: send application/json.",
            )
        return None
    form = FORMS.get(media_type)
    if form is None:
        raise _unsupported(media_type)
    return form


def _unsupported(media_type: str) -> UnsupportedMediaType:
    known = ", ".join(name for name in FORMS if name)
    return UnsupportedMediaType("request.unsupported_media_type", f"{media_type!r} is not read here; send {known}.")


def binary_to_json(headers: dict[str, str], body: bytes) -> bytes:
    """An event in binary mode as one in structured mode. Raises Malformed when the body is no JSON."""
    event: dict[str, object] = {}
    for name, value in headers.items():
        if name.startswith(BINARY_PREFIX):
            event[name.removeprefix(BINARY_PREFIX)] = _unquote(value)
    if body.strip():
        try:
            body.decode()
            event["data"] = msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed("request.invalid_json", f"The body is no JSON: {error}") from None
    return msgspec.json.encode(event)


def _unquote(value: str) -> str:
    """Percent-decoding of a header, as the HTTP binding of CloudEvents has it. Raises Malformed."""
    try:
        return unquote_to_bytes(value.strip('"')).decode()
    except UnicodeDecodeError:
        raise Malformed("request.invalid_header", f"The header {value[:64]!r} is not percent-encoded UTF-8.") from None
