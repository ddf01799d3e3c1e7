"""`GET /v1/entitlements/stream`: every change of a balance or a state, as server-sent events.

It is a stream of states, not of differences: an `entitlement` event says all that a check would. Whoever connects gets
all present ones, then `synced`, then what changes; `progress` says up to when all that was acknowledged is in what was
sent. With `Last-Event-ID` of the same process only what was missed is sent; from anywhere else all of it, again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Annotated

import structlog
from fastapi import Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from infra.clickhouse.client import ClickHouseError
from ingestion_api import clock
from ingestion_api.answers import encode
from ingestion_api.auth import CheckerOrReader, Principal, bearer_of
from ingestion_api.context import Context, FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.features import find as find_feature
from ingestion_api.entitlements.decide import CheckView
from ingestion_api.entitlements.ring import Pair
from ingestion_api.entitlements.states import look
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.routing import house_router
from schemas.errors import Retry, Unauthenticated

MAX_STREAMS = 200  # of one process
TICK = timedelta(milliseconds=100)
PROGRESS_SECONDS = 1
RECHECK_SECONDS = 10  # whether the key still opens anything
READY_SECONDS = 10
STATES_AT_ONCE = 500
RETRY_MS = 1_000  # after which a client connects again
HELD_EVERY = timedelta(seconds=1)  # what is reserved is looked at: nobody tells of its expiry
AGES = {"as_of", "lag_seconds"}

router = house_router("entitlements")

log = structlog.get_logger("meterline.stream")


@router.get(
    "/v1/entitlements/stream",
    operation_id="stream_entitlements",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
)
async def stream_entitlements(
    request: Request,
    principal: CheckerOrReader,
    context: FromContext,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    feature: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=200)] = None,
) -> Response:
    """Follow what customers may use, as it changes: all of them or one, of all features or one."""
    if context.streams.running >= MAX_STREAMS:
        raise Retry("entitlement.too_many_streams", f"{MAX_STREAMS} streams run here already.", retry_after_seconds=5)
    wanted = await run_in_threadpool(_resolve, context, principal, customer, feature)
    deadline = time.monotonic() + READY_SECONDS
    while not context.replica.is_current(principal.tenant_id):
        if time.monotonic() > deadline:
            raise Retry("entitlement.not_ready", "Entitlements are not loaded yet.", retry_after_seconds=2)
        await asyncio.sleep(TICK.total_seconds())
    stream = Stream(context, principal, bearer_of(request.headers.get("authorization")), wanted)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream.events(last_event_id), media_type="text/event-stream", headers=headers)


def _resolve(
    context: Context, principal: Principal, customer: str | None, feature: str | None
) -> tuple[str | None, str | None]:
    """The ids of what is asked for. Raises NotFound."""
    with context.database.transaction() as connection:
        tenant_id = principal.tenant_id
        return (
            None if customer is None else find_customer(connection, tenant_id, customer)["id"],
            None if feature is None else find_feature(connection, tenant_id, feature)["id"],
        )


class Stream:
    """One connection's."""

    def __init__(
        self, context: Context, principal: Principal, bearer: str, wanted: tuple[str | None, str | None]
    ) -> None:
        self._context = context
        self._principal = principal
        self._bearer = bearer
        self._customer, self._feature = wanted
        self._book = context.replica.book
        self._turns: list[tuple[datetime, Pair]] = []  # a heap: when the present period of a pair ends
        self._ends: dict[Pair, datetime] = {}  # what stands there
        self._held: dict[Pair, tuple[datetime, CheckView]] = {}  # of what is reserved: the next look, and what was told

    async def events(self, last_event_id: str | None) -> AsyncGenerator[bytes]:
        """The body, until the client goes, its key is revoked, or the process ends."""
        streams = self._context.streams
        streams.running += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            async for part in self._follow(last_event_id):
                yield part
        except (Retry, ClickHouseError) as error:  # whoever follows connects again, and goes on from its last event
            log.warning("stream broken off", error=str(error))
        finally:
            streams.running -= 1

    async def _follow(self, last_event_id: str | None) -> AsyncGenerator[bytes]:
        changes = self._book.changes
        place = changes.number_of(last_event_id)
        missed = None if place is None else changes.since(place)
        last, pairs = (changes.last, self._all()) if missed is None else (missed[0], list(missed[1]))
        async for part in self._states(pairs, changes.place(last)):
            yield part
        yield _event("synced", {"resumed": missed is not None, **self._progress()}, changes.place(last))
        told_at = checked_at = time.monotonic()
        while not self._context.streams.stopping:
            await asyncio.sleep(TICK.total_seconds())
            found = changes.since(last)
            if found is None:  # more than the ring holds since the last tick
                last, pairs = changes.last, self._all()
            else:
                last, pairs = found[0], list(found[1])
            async for part in self._states([*pairs, *self._turned()], changes.place(last)):
                yield part
            now = time.monotonic()
            if now - told_at >= PROGRESS_SECONDS:
                told_at = now
                yield _event("progress", self._progress(), changes.place(last))
            if now - checked_at >= RECHECK_SECONDS:
                checked_at = now
                if not await run_in_threadpool(self._may_go_on):
                    return

    def _may_go_on(self) -> bool:
        """Whether the key still opens what it did. May wait for PostgreSQL; raises Retry when that is away."""
        try:
            return self._context.keys.lookup(self._bearer) == self._principal
        except Unauthenticated:
            return False

    def _all(self) -> list[Pair]:
        return self._book.pairs(self._principal.tenant_id, self._customer)

    def _turned(self) -> list[Pair]:
        """Whose period has ended since, and whose reservations may have: nobody tells of that."""
        now = clock.now()
        turned = {pair: None for pair, (at, _) in self._held.items() if at <= now}
        while self._turns and self._turns[0][0] <= now:
            pair = heappop(self._turns)[1]
            self._ends.pop(pair, None)
            turned[pair] = None
        return list(turned)

    def _progress(self) -> dict[str, object]:
        fresh = self._book.fresh(clock.now())
        return {"as_of": fresh.as_of, "lag_seconds": fresh.lag_seconds}

    async def _states(self, pairs: Iterable[Pair], place: str) -> AsyncGenerator[bytes]:
        """Events of all of these that are asked for, some at a time. Only the last one says that the place is reached:
        whoever breaks off before it is told of all of them again."""
        wanted = [pair for pair in pairs if self._wants(pair)]
        for start in range(0, len(wanted), STATES_AT_ONCE):
            views = await run_in_threadpool(self._look, wanted[start : start + STATES_AT_ONCE])
            is_end = start + STATES_AT_ONCE >= len(wanted)
            places = [*[None] * (len(views) - 1), place if is_end else None]
            if views:
                yield b"".join(_event("entitlement", *each) for each in zip(views, places, strict=True))

    def _wants(self, pair: Pair) -> bool:
        return (
            (self._customer is None or pair[0] == self._customer)
            and (self._feature is None or pair[1] == self._feature)
            and self._book.tenant_of(pair) == self._principal.tenant_id
        )

    def _look(self, pairs: list[Pair]) -> list[CheckView]:
        now = clock.now()
        found = look(self._context, self._principal, pairs, now)
        for pair in set(pairs) - found.keys():
            self._held.pop(pair, None)
        for pair, view in found.items():
            period = view["period"]
            end = None if period is None else period["end"]
            if end is not None and self._ends.get(pair) != end:
                self._ends[pair] = end
                heappush(self._turns, (end, pair))
        return [view for pair, view in found.items() if self._is_news(pair, view, now)]

    def _is_news(self, pair: Pair, view: CheckView, now: datetime) -> bool:
        """Whether anything but its age is new. What is reserved is looked at again and again until it is not."""
        _, told = self._held.pop(pair, (now, None))
        if view["reserved"] not in {None, "0"}:
            self._held[pair] = (now + HELD_EVERY, view)
        return told is None or _without_age(view) != _without_age(told)


def _without_age(view: CheckView) -> dict[str, object]:
    return {name: value for name, value in view.items() if name not in AGES}


def _event(name: str, data: object, place: str | None) -> bytes:
    """`place` None: the client keeps the one it has."""
    identity = b"" if place is None else b"id: %b\n" % place.encode()
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), identity, encode(data))
