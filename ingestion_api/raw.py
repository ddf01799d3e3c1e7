"""A POST of one path without a framework, in front of an application that has routes for everything.

A request that is plainly good is answered here: its key is known already, its length announced and small, nothing about
it unusual. Every other one goes on to the ordinary route, which has all the errors; what was read is read there again.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from prometheus_client import Counter

from infra.metrics import HTTP_REQUESTS, HTTP_SECONDS
from ingestion_api.access_log import request_id_from
from ingestion_api.auth import KeyCache, Principal, Scope, bearer_of
from ingestion_api.ingest.body import BodyReader, Disconnected, Receive
from ingestion_api.problems import CONTENT_TYPE, internal_problem, problem
from schemas.errors import MeterlineError, Unauthenticated

MAX_BODY_BYTES = 256 * 1024  # larger ones are for the ordinary route
UNUSUAL_HEADERS = {b"idempotency-key", b"content-encoding"}
JSON_TYPE = b"application/json"

ScopeMap = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[ScopeMap, Receive, Send], Awaitable[None]]
#: Status, content type and body for a principal's body and request id; None: the ordinary route knows.
Handler = Callable[[Principal, bytes, str], Awaitable[tuple[int, bytes, bytes] | None]]

_log = structlog.get_logger("meterline.api")


class RawPost:
    """An ASGI application; `asgi.py` sends it POSTs of its path and nothing else. The handler may raise."""

    def __init__(self, path: str, scope: Scope, keys: KeyCache, handler: Handler, others: Application) -> None:
        self._path = path
        self._scope = scope
        self._keys = keys
        self._handler = handler
        self._others = others
        self._bodies = BodyReader()
        self._seconds = HTTP_SECONDS.labels("POST", path)
        self._answered: dict[int, Counter] = {}

    async def __call__(self, scope: ScopeMap, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        principal, size = self._principal(headers), announced_bytes(headers)
        if (
            principal is None
            or not 0 < size <= MAX_BODY_BYTES
            or scope["query_string"]
            or not UNUSUAL_HEADERS.isdisjoint(headers)
        ):
            await self._others(scope, receive, send)
            return
        request_id = request_id_of(headers)
        try:
            body = await self._bodies.read(receive, size, _no_more)
            answer = await self._handler(principal, body, request_id)
        except Disconnected:
            return
        except Exception as error:
            status = await answer_error(error, self._path, request_id, send)
        else:
            if answer is None:
                await self._others(scope, _again(body, receive), send)
                return
            status, content_type, content = answer
            head = [(b"content-type", content_type), (b"x-request-id", request_id.encode())]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": content})
        self._count(status)
        self._seconds.observe(time.perf_counter() - started)

    def _count(self, status: int) -> None:
        """One answer more. Looking a label up costs as much as reading a small body."""
        answered = self._answered.get(status)
        if answered is None:
            answered = self._answered[status] = HTTP_REQUESTS.labels("POST", self._path, str(status))
        answered.inc()

    def _principal(self, headers: dict[bytes, bytes]) -> Principal | None:
        """Who asks, if that is known already and may."""
        try:
            bearer = bearer_of(headers.get(b"authorization", b"").decode("latin-1"))
        except Unauthenticated:
            return None
        principal = self._keys.cached(bearer)
        return principal if principal is not None and principal.may(self._scope) else None


def announced_bytes(headers: dict[bytes, bytes]) -> int:
    """How long the body will be, by its sender; 0: not said."""
    announced = headers.get(b"content-length", b"")
    return int(announced) if announced.isdigit() else 0


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """The client's own id when it is sane, else a new one."""
    given = headers.get(b"x-request-id")
    return request_id_from(None if given is None else given.decode("latin-1"))


async def answer_error(error: Exception, path: str, request_id: str, send: Send) -> int:
    """Answer with a problem: the error's own, or 500 for what no client can cause, whose trace the log has. The
    status."""
    if isinstance(error, MeterlineError):
        status, head, body = problem(error, instance=path, request_id=request_id)
    else:
        _log.error("request failed", request_id=request_id, path=path, exc_info=error)
        status, head = 500, {"content-type": CONTENT_TYPE, "x-request-id": request_id}
        body = internal_problem(path, request_id)
    pairs = [(name.encode(), value.encode()) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
    return status


def _no_more(size: int) -> None:
    """The server lets no more through than was announced, and that was little."""


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read, to be read once more, and then what comes."""
    waiting: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return next_message
