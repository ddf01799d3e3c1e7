"""The door of the FastAPI app: gives each request its id, times it, logs it, and turns a crash into a plain 500."""

import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.metrics import HTTP_REQUESTS, HTTP_SECONDS
from ingestion_api.problems import CONTENT_TYPE, internal_problem
from schemas.ids import Prefix, new_id

#: A label of a client's own making would make a new time series each; others are counted as OTHER_METHOD.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
CLIENT_GONE = 499  # as nginx counts those who hang up before they are answered

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_log = structlog.get_logger("meterline.api")


def request_id_from(given: str | None) -> str:
    """The client's own id when it is sane, else a new one."""
    return given if given and _SANE_REQUEST_ID.fullmatch(given) else new_id(Prefix.REQUEST)


class AccessLog:
    """Outermost middleware: nothing beyond it sees an exception."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_from(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        started = time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            status = CLIENT_GONE  # nobody is left to answer; nothing has been done
        except Exception:
            _log.exception("request failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if status:  # the answer has begun: cut the connection, so that nobody takes half of it for the whole
                raise
            await _send_internal_error(send_named, scope["path"], request_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
            HTTP_REQUESTS.labels(method, route, str(status)).inc()
            HTTP_SECONDS.labels(method, route).observe(seconds)
            _log.info(
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 2),
            )


async def _send_internal_error(send: Send, path: str, request_id: str) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", CONTENT_TYPE.encode())]})
    await send({"type": "http.response.body", "body": internal_problem(path, request_id)})
