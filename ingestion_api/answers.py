"""Answers: JSON with every digit, instants in RFC 3339 UTC."""

from typing import Any

import msgspec
from starlette.responses import Response

_encoder = msgspec.json.Encoder(decimal_format="number")


def encode(view: Any) -> bytes:
    """JSON of dicts, lists, texts, instants, booleans and numbers. Quantities are text already; see `views`."""
    return _encoder.encode(view)


def answer(view: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encode(view), status, media_type="application/json")
