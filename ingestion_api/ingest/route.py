"""`POST /v1/events`, without a framework: read, decode, publish, and answer when the broker has the events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import msgspec
import structlog
from starlette.concurrency import run_in_threadpool

from infra.intake.columns import identify
from infra.intake.decode import Decoded, Form, decode, decode_single
from infra.intake.element import Rejection
from infra.metrics import EVENTS_RECEIVED, HTTP_REQUESTS, HTTP_SECONDS
from ingestion_api.access_log import request_id_from
from ingestion_api.auth import KeyCache, Principal, Scope, bearer_of, check_scope
from ingestion_api.idempotency import REPLAYED
from ingestion_api.ingest.body import BodyReader, Disconnected, Receive, unpack
from ingestion_api.ingest.group import AllRejected
from ingestion_api.ingest.keyed import Answer, KeyedAnswers, request_of
from ingestion_api.ingest.lag import LagWatch
from ingestion_api.ingest.media import BINARY_MARKS, binary_to_json, form_of
from ingestion_api.ingest.publish import Publisher
from ingestion_api.ingest.trace import trace_of
from ingestion_api.problems import CONTENT_TYPE, internal_problem, problem
from schemas.errors import MeterlineError, Retry
from schemas.events import MAX_EVENT_BYTES

PATH = "/v1/events"
IDEMPOTENCY_KEY = b"idempotency-key"
TIME_IN_FUTURE = "event.time_in_future"
PLAIN_JSON = b"application/json"
ONE_ACCEPTED = b'{"accepted":1,"duplicates":0,"rejected":[]}'
JSON_TYPE = (b"content-type", PLAIN_JSON)
PROBLEM_TYPE = (b"content-type", CONTENT_TYPE.encode())
#: A request with none of these and PLAIN_JSON is what it seems.
UNUSUAL_HEADERS = {b"content-encoding", *(mark.encode() for mark in BINARY_MARKS)}
#: Larger bodies are decoded in a thread, so that other requests' answers need not wait for them.
MAX_INLINE_BYTES = 512 * 1024

ScopeMap = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_accepted_events, _duplicate_events, _rejected_events = (
    EVENTS_RECEIVED.labels(outcome) for outcome in ("accepted", "duplicate", "rejected")
)
_accepted_requests = HTTP_REQUESTS.labels("POST", PATH, "202")
_seconds = HTTP_SECONDS.labels("POST", PATH)
_log = structlog.get_logger("meterline.api")


class EventsRoute:
    """An ASGI application for one path and method; `asgi.py` sends it nothing else."""

    def __init__(self, keys: KeyCache, publisher: Publisher, lag: LagWatch, answers: KeyedAnswers) -> None:
        self._keys = keys
        self._publisher = publisher
        self._lag = lag
        self._answers = answers
        self._bodies = BodyReader()

    async def __call__(self, scope: ScopeMap, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        started = time.perf_counter()
        try:
            answer = await self._accept(headers, receive)
        except Disconnected:
            return
        except Exception as error:
            await _answer_error(error, headers, send)
            return
        finally:
            _seconds.observe(time.perf_counter() - started)
        if answer.status == 202:
            _accepted_requests.inc()
        else:
            HTTP_REQUESTS.labels("POST", PATH, str(answer.status)).inc()
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": _response_headers(headers, answer)}
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _accept(self, headers: dict[bytes, bytes], receive: Receive) -> Answer:
        """The 202, or what is kept under the request's Idempotency-Key. Raises MeterlineError for everything else,
        Disconnected when nobody waits for it."""
        principal = await self._principal(headers)
        announced = headers.get(b"content-length", b"")
        announced_bytes = int(announced) if announced.isdigit() else 0
        with self._publisher.flight() as flight:
            body = await self._bodies.read(receive, announced_bytes, flight.grow_to)
            body, form = _unwrap(headers, body)
            flight.grow_to(len(body))
            publish = partial(self._publish, body, form, principal, headers)
            if IDEMPOTENCY_KEY in headers:
                headers[b"x-request-id"] = _request_id(headers).encode()  # one in the answer's head and in its body
                request = request_of(headers[IDEMPOTENCY_KEY], principal.tenant_id, form, body)
                answer = await self._answers.once(request, lambda: _attempt(publish, headers))
            else:
                answer = Answer(202, await publish())
            if self._lag.delay_seconds:
                await asyncio.sleep(self._lag.delay_seconds)
            return answer

    async def _principal(self, headers: dict[bytes, bytes]) -> Principal:
        bearer = _bearer(headers)
        principal = self._keys.cached(bearer) or await run_in_threadpool(self._keys.lookup, bearer)
        check_scope(principal, Scope.INGEST)
        return principal

    async def _publish(self, body: bytes, form: Form, principal: Principal, headers: dict[bytes, bytes]) -> bytes:
        """Raises AllRejected, and what publishing raises. What lies ahead is refused, unless test clocks are to judge
        it: then all events take the way of batches, which is the exact one."""
        received_micros = time.time_ns() // 1000
        tenant_no, trace = principal.tenant_no, trace_of(headers)
        any_time = principal.has_clocks
        if form is Form.JSON and len(body) <= MAX_EVENT_BYTES and not any_time:
            single = decode_single(body)
            if single is not None:
                try:
                    await self._publisher.publish_single(body, single, received_micros, tenant_no, trace)
                except AllRejected as error:
                    any_time = await self._has_clocks_now(error.rejections, headers)
                    if not any_time:
                        raise
                else:
                    _accepted_events.inc()
                    return ONE_ACCEPTED
        decoded = await _decode(body, form, received_micros, any_time)
        if not any_time and await self._has_clocks_now(decoded.rejections, headers):
            decoded = await _decode(body, form, received_micros, True)
        if decoded.events is None:
            raise AllRejected(decoded.rejections)
        if decoded.rejections:
            _rejected_events.inc(len(decoded.rejections))
        sent = len(decoded.events)
        duplicates = identify(decoded.events, tenant_no)
        await self._publisher.publish(decoded.events, tenant_no, trace)
        _accepted_events.inc(sent - duplicates)
        if duplicates:
            _duplicate_events.inc(duplicates)
        return _accepted(sent - duplicates, duplicates, decoded)

    async def _has_clocks_now(self, rejections: list[Rejection], headers: dict[bytes, bytes]) -> bool:
        """Whether the tenant has test clocks after all: another process may have made its first one a moment ago. Only
        what was refused for lying ahead is worth asking for."""
        if not any(rejection.code == TIME_IN_FUTURE for rejection in rejections):
            return False
        return (await run_in_threadpool(self._keys.recheck, _bearer(headers))).has_clocks


def _bearer(headers: dict[bytes, bytes]) -> str:
    return bearer_of(headers.get(b"authorization", b"").decode("latin-1"))


async def _decode(body: bytes, form: Form, received_micros: int, any_time: bool) -> Decoded:
    if len(body) <= MAX_INLINE_BYTES:
        return decode(body, form, received_micros, any_time=any_time)
    return await run_in_threadpool(decode, body, form, received_micros, any_time=any_time)


def _unwrap(headers: dict[bytes, bytes], body: bytes) -> tuple[bytes, Form]:
    """The body as JSON or lines of JSON, whatever it came as."""
    if headers.get(b"content-type") == PLAIN_JSON and headers.keys().isdisjoint(UNUSUAL_HEADERS):
        return body, Form.JSON
    texts = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers.items()}
    form = form_of(texts)
    body = unpack(body, texts.get("content-encoding", "").strip().lower())
    if form is None:
        return binary_to_json(texts, body), Form.JSON
    return body, form


def _accepted(accepted: int, duplicates: int, decoded: Decoded) -> bytes:
    if not decoded.rejections:
        return b'{"accepted":%d,"duplicates":%d,"rejected":[]}' % (accepted, duplicates)
    return msgspec.json.encode({"accepted": accepted, "duplicates": duplicates, "rejected": decoded.rejections})


async def _attempt(publish: Callable[[], Awaitable[bytes]], headers: dict[bytes, bytes]) -> tuple[int, bytes]:
    """The status and the body of what is an answer for good. Raises Retry, and whatever is the service's own fault."""
    try:
        return 202, await publish()
    except Retry:
        raise
    except MeterlineError as error:
        status, _, body = _refusal(error, _request_id(headers))
        if status >= 500:
            raise
        return status, body


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id")
    return request_id_from(None if given is None else given.decode("latin-1"))


def _response_headers(headers: dict[bytes, bytes], answer: Answer) -> list[tuple[bytes, bytes]]:
    pairs = [JSON_TYPE if answer.status == 202 else PROBLEM_TYPE, (b"x-request-id", _request_id(headers).encode())]
    if answer.replayed:
        pairs.append((REPLAYED.encode(), b"true"))
    return pairs


def _refusal(error: MeterlineError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    status, extra, body = problem(error, instance=PATH, request_id=request_id)
    if isinstance(error, AllRejected):
        _rejected_events.inc(len(error.rejections))
        body = body[:-1] + b',"rejected":' + msgspec.json.encode(error.rejections) + b"}"
    return status, extra, body


async def _answer_error(error: Exception, headers: dict[bytes, bytes], send: Send) -> None:
    request_id = _request_id(headers)
    if isinstance(error, MeterlineError):
        status, extra, body = _refusal(error, request_id)
    else:
        _log.error("request failed", request_id=request_id, path=PATH, exc_info=error)
        status, extra = 500, {"content-type": CONTENT_TYPE, "x-request-id": request_id}
        body = internal_problem(PATH, request_id)
    HTTP_REQUESTS.labels("POST", PATH, str(status)).inc()
    pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
