"""`POST /v1/entitlements/check` without a framework, as long as the replica knows the answer.

What it does not know, and every request that is not plainly good, goes to the ordinary route: that one has the errors,
the Idempotency-Key, and PostgreSQL.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec

from infra.metrics import HTTP_REQUESTS, HTTP_SECONDS
from ingestion_api import clock
from ingestion_api.access_log import request_id_from
from ingestion_api.answers import encode
from ingestion_api.auth import KeyCache, Principal, Scope, bearer_of
from ingestion_api.context import Context
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.routes import MAX_CHECKS
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.ingest.body import BODY_SECONDS, Receive
from schemas.errors import Unauthenticated

PATH = "/v1/entitlements/check"
MAX_BODY_BYTES = 256 * 1024  # of what is looked at here
UNUSUAL_HEADERS = {b"idempotency-key", b"content-encoding"}

_PLAIN_QUANTITY = re.compile(r"[0-9]{1,26}(\.[0-9]{1,12})?")

ScopeMap = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[ScopeMap, Receive, Send], Awaitable[None]]


class _Check(msgspec.Struct, forbid_unknown_fields=True):
    customer: str
    feature: str
    quantity: str | int | None = None


class _Checks(msgspec.Struct, forbid_unknown_fields=True):
    checks: list[_Check]


_decode_one = msgspec.json.Decoder(_Check).decode
_decode_many = msgspec.json.Decoder(_Checks).decode
_answered = HTTP_REQUESTS.labels("POST", PATH, "200")
_seconds = HTTP_SECONDS.labels("POST", PATH)


class CheckRoute:
    """An ASGI application for one path and method, in front of another that answers all of it."""

    def __init__(self, context: Context, replica: Replica, others: Application) -> None:
        self._keys: KeyCache = context.keys
        self._clickhouse = context.clickhouse
        self._replica = replica
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
        answer = None if body is None else self._answer(body, principal)
        if answer is None:
            await self._others(scope, again(messages, receive), send)
            return
        given = headers.get(b"x-request-id")
        request_id = request_id_from(None if given is None else given.decode("latin-1"))
        head = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})
        _answered.inc()
        _seconds.observe(time.perf_counter() - started)

    def _answer(self, body: bytes, principal: Principal) -> bytes | None:
        asks = _read_asks(body)
        if asks is None:
            return None
        views = self._replica.answer(
            self._clickhouse, asks[1], tenant_id=principal.tenant_id, tenant_no=principal.tenant_no, now=clock.now()
        )
        if views is None:
            return None
        return encode({"object": "list", "data": views} if asks[0] else views[0])


def principal_of(keys: KeyCache, headers: dict[bytes, bytes]) -> Principal | None:
    """Who asks, if that is known already and may check."""
    try:
        bearer = bearer_of(headers.get(b"authorization", b"").decode("latin-1"))
    except Unauthenticated:
        return None
    principal = keys.cached(bearer)
    return principal if principal is not None and principal.may(Scope.CHECK) else None


async def read(receive: Receive, messages: list[MutableMapping[str, Any]]) -> bytes | None:
    """The body, its parts added to `messages`; None: it is large or broke off."""
    body = b""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def again(messages: list[MutableMapping[str, Any]], receive: Receive) -> Receive:
    """What was read, to be read once more, and then what comes."""
    waiting = iter(messages)

    async def next_message() -> MutableMapping[str, Any]:
        message = next(waiting, None)
        return await receive() if message is None else message

    return next_message


def _read_asks(body: bytes) -> tuple[bool, list[Ask]] | None:
    """Whether they are several, and the checks; None: not plainly good."""
    bulk = b'"checks"' in body
    try:
        checks = _decode_many(body).checks if bulk else [_decode_one(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not 1 <= len(checks) <= MAX_CHECKS:
        return None
    asks: list[Ask] = []
    for check in checks:
        if not (_is_name(check.customer) and _is_name(check.feature)):
            return None
        quantity = None
        if check.quantity is not None:
            text = str(check.quantity)
            if not _PLAIN_QUANTITY.fullmatch(text):
                return None
            quantity = Decimal(text)
        asks.append(Ask(check.customer, check.feature, quantity))
    return bulk, asks


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= MAX_EXTERNAL_ID_LENGTH
