"""Bodies of events for tests, and what the decoder makes of them."""

import json
from typing import Any

from infra.intake import decode
from infra.intake.decode import Decoded, Form
from schemas.instants import parse_instant, to_micros

NOW = to_micros(parse_instant("2026-01-31T12:00:00Z"))
GOOD = {"id": "good", "type": "t", "subject": "s", "time": "2026-01-01T00:00:00Z", "data": {"a": 1}}


def event(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | fields).items() if value is not ...}


def text_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def array(*events: Any) -> bytes:
    return b"[" + b",".join(text_of(each) for each in events) + b"]"


def read(body: bytes, form: Form = Form.JSON) -> Decoded:
    return decode.decode(body, form, NOW)


def ids(decoded: Decoded) -> list[str]:
    return [each.decode() for each in decoded.events.ids.items()] if decoded.events else []


GOOD_TIMES = [
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456789Z",
    "2026-01-01t00:00:00z", "2026-01-01 00:00:00Z", "2026-01-01T02:00:00+02:00", "2025-12-31T18:30:00.5-05:30",
    "1900-01-01T00:00:00Z", "2026-01-31T12:05:00Z", "1969-12-31T23:59:59.999999Z", "2024-02-29T23:59:59Z",
]  # fmt: skip
