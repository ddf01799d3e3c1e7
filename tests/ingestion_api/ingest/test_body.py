"""Bodies that come slowly, or never."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from ingestion_api import routing
from ingestion_api.ingest import body
from ingestion_api.problems import status_of
from schemas.errors import TimedOut
from schemas.events import MAX_REQUEST_BYTES


def one_byte_and_no_more() -> Callable[[], Awaitable[dict[str, Any]]]:
    messages = [{"type": "http.request", "body": b"[", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


def test_events_that_do_not_come_in_time_are_a_408_and_only_what_came_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.01)
    monkeypatch.setattr(body, "SWEEP_SECONDS", 0.02)
    held: list[int] = []

    async def read() -> None:
        await body.BodyReader().read(one_byte_and_no_more(), MAX_REQUEST_BYTES, held.append)

    with pytest.raises(TimedOut) as refused:
        asyncio.run(read())
    assert (status_of(refused.value), refused.value.code) == (408, "request.timeout")
    assert held == [1]


def test_a_server_that_ends_ends_the_reading_of_a_body() -> None:
    async def read() -> None:
        reading = asyncio.ensure_future(body.BodyReader().read(one_byte_and_no_more(), MAX_REQUEST_BYTES, [].append))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(read())


def test_a_body_of_the_control_plane_that_does_not_come_in_time_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "BODY_SECONDS", 0.01)
    request = Request({"type": "http", "headers": []}, one_byte_and_no_more())
    with pytest.raises(TimedOut) as refused:
        asyncio.run(routing.read_body(request))
    assert refused.value.code == "request.timeout"
