"""Sends the events through the API at a steady rate, and some of them twice, as clients that lost an answer do."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx2

from schemas.errors import Retry

EVENTS_A_REQUEST = 200
REQUESTS_IN_FLIGHT = 8
EVERY_NTH_TWICE = 20  # one request in twenty is sent again after its answer
MAX_ATTEMPTS = 30
MAX_BACKOFF_SECONDS = 5


@dataclass(slots=True, kw_only=True)
class Progress:
    """What has been sent so far; the live table reads it."""

    total: int
    acknowledged: int = 0
    sent_again: int = 0


async def send_all(url: str, key: str, events: list[dict[str, Any]], *, rate: int, progress: Progress) -> None:
    """Send every event, `rate` a second, each until it is acknowledged. Raises Retry when the API stays away."""
    slots = asyncio.Semaphore(REQUESTS_IN_FLIGHT)
    headers = {"authorization": f"Bearer {key}"}
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as client, asyncio.TaskGroup() as tasks:
        for number, first in enumerate(range(0, len(events), EVENTS_A_REQUEST)):
            await asyncio.sleep(max(0.0, started + first / rate - loop.time()))
            await slots.acquire()
            batch = events[first : first + EVENTS_A_REQUEST]
            twice = number % EVERY_NTH_TWICE == 0
            task = tasks.create_task(_send_batch(client, batch, twice=twice, progress=progress))
            task.add_done_callback(lambda _: slots.release())


async def _send_batch(
    client: httpx2.AsyncClient, batch: list[dict[str, Any]], *, twice: bool, progress: Progress
) -> None:
    await _send_until_acknowledged(client, batch)
    progress.acknowledged += len(batch)
    if twice:
        await _send_until_acknowledged(client, batch)
        progress.sent_again += len(batch)


async def _send_until_acknowledged(client: httpx2.AsyncClient, batch: list[dict[str, Any]]) -> None:
    """The same ids may be sent again and again: a copy counts once."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            answer = await client.post("/v1/events", json=batch)
        except httpx2.TransportError:
            await asyncio.sleep(min(0.2 * 2**attempt, MAX_BACKOFF_SECONDS))
            continue
        if answer.status_code == 503:
            await asyncio.sleep(min(int(answer.headers.get("retry-after", "1")), MAX_BACKOFF_SECONDS))
            continue
        answer.raise_for_status()
        accepted = answer.json()["accepted"]
        if accepted != len(batch):
            raise RuntimeError(f"{len(batch)} good events were sent and {accepted} accepted: {answer.text}")
        return
    raise Retry("demo.not_acknowledged", f"the API did not acknowledge a request in {MAX_ATTEMPTS} attempts")
