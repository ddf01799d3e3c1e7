"""What a request says of itself, for whoever reads the log: its id and its W3C trace context."""

import re

from schemas.events import HEADER_REQUEST_ID, HEADER_TRACEPARENT

#: Names and values of Kafka headers.
Trace = tuple[tuple[str, bytes], ...]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(headers: dict[bytes, bytes]) -> Trace:
    """The request's own `x-request-id` and `traceparent`, each if it is there and sane; names are in lower case."""
    found: Trace = ()
    request_id = headers.get(b"x-request-id")
    if request_id is not None and _REQUEST_ID.fullmatch(request_id):
        found = ((HEADER_REQUEST_ID, request_id),)
    traceparent = headers.get(b"traceparent")
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        found += ((HEADER_TRACEPARENT, traceparent),)
    return found
