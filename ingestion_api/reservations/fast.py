"""`POST /v1/entitlements/reserve` without a framework, for requests that are plainly good.

All others go to the ordinary route: that one has the errors, the Idempotency-Key and the metadata. Both decide by the
same batches.
"""

import asyncio
import re
import time
from collections.abc import MutableMapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec

from infra.metrics import HTTP_REQUESTS, HTTP_SECONDS
from ingestion_api import clock
from ingestion_api.access_log import request_id_from
from ingestion_api.auth import KeyCache, Principal
from ingestion_api.entitlements.fast import UNUSUAL_HEADERS, Application, ScopeMap, Send, again, principal_of, read
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.ingest.body import BODY_SECONDS, Receive
from ingestion_api.problems import problem
from ingestion_api.reservations.batches import ReserveBatches
from ingestion_api.reservations.reserve import Asked
from ingestion_api.reservations.routes import decide
from schemas.errors import MeterlineError
from schemas.reservations import DEFAULT_TTL_SECONDS, MAX_TTL_SECONDS, MIN_TTL_SECONDS

PATH = "/v1/entitlements/reserve"

_PLAIN_QUANTITY = re.compile(r"(?!0+(\.0+)?$)[0-9]{1,26}(\.[0-9]{1,12})?")
_seconds = HTTP_SECONDS.labels("POST", PATH)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    customer: str
    feature: str
    quantity: str | int
    ttl_seconds: int = DEFAULT_TTL_SECONDS


_decode = msgspec.json.Decoder(_Body).decode


class ReserveRoute:
    """An ASGI application for one path and method, in front of another that answers all of it."""

    def __init__(self, keys: KeyCache, batches: ReserveBatches, others: Application) -> None:
        self._keys = keys
        self._batches = batches
        self._others = others

    async def __call__(self, scope: ScopeMap, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        principal = principal_of(self._keys, headers)
        if principal is None or scope["query_string"] or not UNUSUAL_HEADERS.isdisjoint(headers):
            await self._others(scope, receive, send)
            return
        messages: list[MutableMapping[str, Any]] = []
        body: bytes | None = None
        with suppress(TimeoutError):  # the ordinary route has the answer to that
            async with asyncio.timeout(BODY_SECONDS):
                body = await read(receive, messages)
        given = headers.get(b"x-request-id")
        request_id = request_id_from(None if given is None else given.decode("latin-1"))
        asked = None if body is None else _read_asked(body, request_id)
        if asked is None:
            await self._others(scope, again(messages, receive), send)
            return
        status, head, answer = await self._decide(principal, asked)
        pairs = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": answer})
        HTTP_REQUESTS.labels("POST", PATH, str(status)).inc()
        _seconds.observe(time.perf_counter() - started)

    async def _decide(self, principal: Principal, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        try:
            answer = await decide(self._batches, principal.tenant_id, asked)
        except MeterlineError as error:
            return problem(error, instance=PATH, request_id=asked.request_id)
        return answer.status, {"content-type": "application/json", "x-request-id": asked.request_id}, answer.body


def _read_asked(body: bytes, request_id: str) -> Asked | None:
    """None: not plainly good."""
    try:
        read = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    quantity = str(read.quantity)
    if not (_is_name(read.customer) and _is_name(read.feature) and _PLAIN_QUANTITY.fullmatch(quantity)):
        return None
    if not MIN_TTL_SECONDS <= read.ttl_seconds <= MAX_TTL_SECONDS:
        return None
    return Asked(
        customer=read.customer,
        feature=read.feature,
        quantity=Decimal(quantity),
        ttl_seconds=read.ttl_seconds,
        metadata={},
        now=clock.now(),
        key=None,
        request_sha256=b"",
        path=PATH,
        request_id=request_id,
    )


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= MAX_EXTERNAL_ID_LENGTH and text.isprintable()
