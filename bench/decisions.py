"""The load of `bench.check` and `bench.reserve`: so many connections, each of which asks as soon as it is answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import uvloop

SEED_SECONDS = 60
POLL_SECONDS = 0.1
LIMIT = "1000000000"


@dataclass(slots=True)
class Score:
    """Answers by status, and the seconds that each took."""

    seconds: float
    statuses: Counter[bytes] = field(default_factory=Counter[bytes])
    latencies: list[float] = field(default_factory=list[float])

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000

    @property
    def a_second(self) -> float:
        return len(self.latencies) / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], score: Score, until: float, gone: asyncio.Future[None]) -> None:
        self._requests, self._score, self._until, self._gone = requests, score, until, gone
        self._received = b""
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        if self._asked_at >= self._until:
            self._transport.close()
            return
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        body_at = self._received.find(b"\r\n\r\n") + 4
        if body_at < 4:
            return
        length_at = self._received.find(b"content-length: ", 0, body_at) + 16  # as the API writes it
        end = body_at + int(self._received[length_at : self._received.index(b"\r", length_at)])
        if len(self._received) < end:
            return
        self._score.statuses[self._received[9:12]] += 1
        self._received = self._received[end:]
        self._score.latencies.append(time.perf_counter() - self._asked_at)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a connection that breaks off has asked its last
        if not self._gone.done():
            self._gone.set_result(None)


def ask(url: str, requests: Iterator[bytes], *, connections: int, seconds: float) -> Score:
    """Ask for so long over so many connections."""
    return uvloop.run(_ask_all(url, requests, connections, seconds))


async def _ask_all(url: str, requests: Iterator[bytes], connections: int, seconds: float) -> Score:
    score, loop, parts = Score(seconds), asyncio.get_running_loop(), urlsplit(url)
    until = time.perf_counter() + seconds
    gone: list[asyncio.Future[None]] = []
    for _ in range(connections):
        lost = loop.create_future()
        gone.append(lost)
        await loop.create_connection(
            lambda lost=lost: _Connection(requests, score, until, lost), parts.hostname or "", parts.port or 80
        )
    await asyncio.gather(*gone)
    return score


def make_requests(path: str, key: str, bodies: list[bytes]) -> Iterator[bytes]:
    """POSTs of these bodies, again and again."""
    ready = [
        b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (path.encode(), key.encode(), len(body), body)
        for body in bodies
    ]
    return (ready[number % len(ready)] for number in count())


def prepare(url: str, key: str, customers: int) -> None:
    """A metered feature, and customers who are entitled to it and are counted."""
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as api:

        def post(path: str, body: Any, status: int = 201) -> Any:
            answer = api.post(path, json=body)
            if answer.status_code != status:
                raise SystemExit(f"{path}: {answer.status_code}: {answer.text}")
            return answer.json()

        post("/v1/meters", {"key": "tokens", "event_type": "llm", "aggregation": "sum", "value": "$.tokens"})
        post("/v1/features", {"key": "tokens", "type": "metered", "meter": "tokens"})
        granted = [{"feature": "tokens", "limit": LIMIT, "reset": "month"}]
        post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [], "entitlements": granted})

        def make(number: int) -> None:
            post("/v1/customers", {"external_id": f"c-{number}"})
            post("/v1/subscriptions", {"customer": f"c-{number}", "plan": "pro"})

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(make, range(customers)))
        deadline = time.monotonic() + SEED_SECONDS
        last = {"customer": f"c-{customers - 1}", "feature": "tokens", "quantity": "1", "ttl_seconds": 1}
        while api.post("/v1/entitlements/reserve", json=last).status_code != 201:
            if time.monotonic() > deadline:
                raise SystemExit(f"the periods are not counted after {SEED_SECONDS} s")
            time.sleep(POLL_SECONDS)
