"""The load generator of `bench.ingest`, a process of its own: prebuilt bodies over raw sockets, open loop.

Requests fall due at a fixed rate whether earlier ones were answered or not; latency counts from the due instant, so a
server that stalls is not spared. A refused or lost request is sent again, as a client would, until it is answered 202.
Writes a JSON line to standard output when the first request falls due and each second after, and at the end the
latencies.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import cast

import uvloop

TEMPLATES = 8
CUSTOMERS = 2_000
ZIPF = 0.9
ID_PLACE = b"@@@@@@@@@@@@"  # replaced by twelve digits that no other request has
TIME_PLACE = b"@YYYY-MM-DDTHH:MM:SS@"
RETRY_SECONDS = 0.2
MAX_ATTEMPTS = 100
MAX_BACKLOG_SECONDS = 10  # of requests due and not yet sent; beyond it the generator stops adding
DRAIN_SECONDS = 30
TICK_SECONDS = 0.002


@dataclass(slots=True)
class Work:
    """One request: its body and when it fell due."""

    payload: bytes
    due_at: float
    attempts: int = 0


@dataclass(slots=True)
class Score:
    acknowledged_requests: int = 0
    retries: int = 0
    gave_up: int = 0
    elapsed_seconds: float = 0.0  # from the first request's due instant to the last answer
    latencies: list[float] = field(default_factory=list[float])


def make_template(events: int, source: str, rng: random.Random) -> bytes:
    """A JSON array of events with places for ids and times. Values: one in ten has three decimals."""
    weights = list(accumulate(1 / (rank + 1) ** ZIPF for rank in range(CUSTOMERS)))
    customers = rng.choices(range(CUSTOMERS), cum_weights=weights, k=events)
    texts: list[bytes] = []
    for customer in customers:
        tokens = str(rng.randrange(1, 5_000)) + (f".{rng.randrange(1, 1000):03d}" if rng.random() < 0.1 else "")
        kind = "completion" if rng.random() < 0.5 else "embedding"
        texts.append(
            b'{"specversion":"1.0","id":"%s-%s","source":"%s","type":"llm.%s","subject":"customer-%d",'
            b'"time":"%s","data":{"model":"model-%d","tokens":%s,"region":"eu-west"}}'
            % (
                ID_PLACE,
                rng.randbytes(6).hex().encode(),
                source.encode(),
                kind.encode(),
                customer,
                TIME_PLACE,
                rng.randrange(4),
                tokens.encode(),
            )
        )
    return texts[0] if events == 1 else b"[" + b",".join(texts) + b"]"


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._work: Work | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class only behaves like one
        self._generator.free.append(self)

    def send(self, work: Work) -> None:
        assert self._transport is not None
        self._work = work
        self._transport.write(work.payload)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(self._received) < head_end + 4 + length:
            return
        accepted = self._received[9:12] == b"202"
        self._received = self._received[head_end + 4 + length :]
        work, self._work = self._work, None
        assert work is not None
        self._generator.free.append(self)
        self._generator.answered(work, accepted=accepted)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self in self._generator.free:
            self._generator.free.remove(self)
        work, self._work = self._work, None
        if work is not None:
            self._generator.answered(work, accepted=False)
        self._generator.reconnect()


class Generator:
    """Makes requests due, hands them to free connections and counts answers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.free: deque[Connection] = deque()
        self._options = options
        self._waiting: deque[Work] = deque()
        self._score = Score()
        self._loop = asyncio.get_running_loop()
        self._next_id = options.first_id
        self._open = 0
        self._started = 0.0
        rng = random.Random(options.seed)
        self._templates = [make_template(options.events, options.source, rng) for _ in range(TEMPLATES)]
        self._dated: list[bytes] = []
        self._stopping = False
        self._reconnects: set[asyncio.Task[None]] = set()

    async def run(self) -> Score:
        options = self._options
        self._date()
        for _ in range(options.connections):
            await self._connect()
        started = self._started = self._loop.time()
        reported, interval = started, 1 / (options.rate / options.events)
        made = 0
        self._report()
        while (now := self._loop.time()) < started + options.seconds:
            if now - reported >= 1:
                self._report()
                self._date()
                reported += 1
            while started + made * interval <= now:
                if len(self._waiting) * interval < MAX_BACKLOG_SECONDS:
                    self._make(started + made * interval)
                made += 1
            self._send_waiting()
            await asyncio.sleep(TICK_SECONDS)
        deadline = self._loop.time() + DRAIN_SECONDS
        while self._open and self._loop.time() < deadline:
            self._send_waiting()
            await asyncio.sleep(TICK_SECONDS)
        self._stopping = True
        return self._score

    def _date(self) -> None:
        """Write the present second into the templates; one in a hundred events lies within the last day."""
        now = datetime.now(UTC)
        self._dated = []
        for number, template in enumerate(self._templates):
            text = now.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            dated = template.replace(TIME_PLACE, text)
            past = (now - timedelta(minutes=17 * number + 1)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            self._dated.append(dated.replace(text, past, self._options.events // 100))

    def _make(self, due_at: float) -> None:
        body = self._dated[self._next_id % TEMPLATES].replace(ID_PLACE, b"%012d" % self._next_id)
        self._next_id += 1
        self._open += 1
        payload = self._options.head % len(body) + body
        self._waiting.append(Work(payload, due_at))

    def _send_waiting(self) -> None:
        while self._waiting and self.free:
            self.free.popleft().send(self._waiting.popleft())

    def answered(self, work: Work, *, accepted: bool) -> None:
        if accepted:
            self._open -= 1
            self._score.acknowledged_requests += 1
            now = self._loop.time()
            self._score.latencies.append(now - work.due_at)
            self._score.elapsed_seconds = now - self._started
            self._send_waiting()
            return
        work.attempts += 1
        self._score.retries += 1
        if work.attempts >= MAX_ATTEMPTS:
            self._open -= 1
            self._score.gave_up += 1
        else:
            self._loop.call_later(RETRY_SECONDS, self._waiting.append, work)

    async def _connect(self) -> None:
        while not self._stopping:
            try:
                make: Callable[[], Connection] = lambda: Connection(self)  # noqa: E731
                await self._loop.create_connection(make, self._options.host, self._options.port)
                return
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)

    def reconnect(self) -> None:
        if not self._stopping:
            task = self._loop.create_task(self._connect())
            self._reconnects.add(task)
            task.add_done_callback(self._reconnects.discard)

    def _report(self) -> None:
        done = self._score.acknowledged_requests * self._options.events
        print(json.dumps({"acknowledged": done, "open": self._open}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--events", type=int, required=True, help="events a request")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--first-id", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.head = (
        f"POST /v1/events HTTP/1.1\r\nhost: {options.host}:{options.port}\r\nauthorization: Bearer {options.key}\r\n"
        "content-type: application/json\r\ncontent-length: "
    ).encode() + b"%d\r\n\r\n"

    async def run() -> Score:
        return await Generator(options).run()

    started = time.process_time()
    score = uvloop.run(run())
    answer = {
        "acknowledged": score.acknowledged_requests * options.events,
        "requests": score.acknowledged_requests,
        "elapsed_seconds": score.elapsed_seconds,
        "retries": score.retries,
        "gave_up": score.gave_up,
        "latencies_ms": [round(seconds * 1000, 3) for seconds in sorted(score.latencies)],
        "cpu_seconds": time.process_time() - started,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
