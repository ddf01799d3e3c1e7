"""Senders that never give up: each event is sent until it is acknowledged, under the same id, and then written down."""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import httpx2

from tests.oracle.ledger import Event, Ledger
from tests.oracle.wire import JSON, batch_text, event_text

#: Of one request, through all kills: longer than any outage that a test makes.
GIVE_UP_SECONDS = 120
RETRY_SECONDS = 0.1
#: What a client must be ready for while servers are killed. Anything else is a fault of the API.
RETRIED = frozenset({429, 503})

SUBJECTS = ("acme", "acme-eu", "beta", "gamma", "gamma")
MODELS = ("m1", "m2", 3, None)
TOKENS = (1, -2, "2.5", "0.000000000001", "1e3", 10**24, "0.1", 0, None)


@dataclass
class Load:
    """`senders` threads over one ledger. `start` begins a spell of sending, `stop` ends it with all acknowledged."""

    connect: Callable[[], httpx2.Client]
    seed: int
    senders: int = 3
    pause_seconds: float = 0.1
    ledger: Ledger = field(default_factory=Ledger)
    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    retries: int = 0
    acknowledged_at: float = 0.0  # on the monotonic clock, the last time
    faults: list[str] = field(default_factory=list[str])
    _spell: int = 0
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._spell += 1
        self._stopping.clear()
        self._threads = [
            threading.Thread(target=self._send_all, args=(number,), daemon=True) for number in range(self.senders)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return when every request under way has been acknowledged. Fails with what went wrong."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(GIVE_UP_SECONDS + 30)
            assert not thread.is_alive(), "a sender hangs"
        assert not self.faults, "\n".join(self.faults[:5])

    def _send_all(self, number: int) -> None:
        source = random.Random(f"{self.seed}-{self._spell}-{number}")
        sent: list[Event] = []
        with self.connect() as client:
            while not self._stopping.is_set():
                batch = self._next_batch(source, f"{self._spell}-{number}", sent)
                if not self._deliver(client, batch):
                    return
                sent += batch
                if source.random() < 0.03 and not self._void(client, source.choice(sent)):
                    return
                time.sleep(self.pause_seconds * source.random() * 2)

    def _next_batch(self, source: random.Random, prefix: str, sent: list[Event]) -> list[Event]:
        """New events, some of them twice, and some copies of acknowledged ones, with the same words or others."""
        size = source.choice((1, 1, 1, 5, 20, 60))
        batch = [new_event(source, f"{prefix}-{len(sent) + place}") for place in range(size)]
        if size > 1:
            batch.append(source.choice(batch))
        if sent and source.random() < 0.3:
            copied = source.choice(sent)
            batch.append(copied if source.random() < 0.5 else replace(copied, data='{"tokens": 999}'))
        return batch

    def _deliver(self, client: httpx2.Client, batch: list[Event]) -> bool:
        """Send until it is acknowledged; False, with a fault, when that can't be."""
        answer = self.insist(
            client, "POST", "/v1/events", batch_text(batch) if len(batch) > 1 else event_text(batch[0])
        )
        return answer is not None and self._write_down(batch, answer.json())

    def _void(self, client: httpx2.Client, event: Event) -> bool:
        """Take back an event that has been acknowledged."""
        text = json.dumps({"source": event.source, "id": event.id})
        answer = self.insist(client, "POST", "/v1/events/void", text)
        if answer is None:
            return False
        with self.lock:
            self.ledger.void(event.identity)
        return True

    def insist(
        self, client: httpx2.Client, method: str, path: str, text: str, **headers: str
    ) -> httpx2.Response | None:
        """The answer once the request has succeeded; None, with a fault, when it does not.

        Whatever it is must do no harm when it is done twice.
        """
        deadline = time.monotonic() + GIVE_UP_SECONDS
        self.requests += 1
        said = "nothing"
        while time.monotonic() < deadline:
            try:
                answer = client.request(method, path, content=text, headers=JSON | headers)
            except httpx2.TransportError as error:
                said = repr(error)
            else:
                if answer.is_success:
                    return answer
                said = f"{answer.status_code} {answer.text[:500]}"
                if answer.status_code not in RETRIED:
                    break
            self.retries += 1
            time.sleep(RETRY_SECONDS)
        self.faults.append(f"{method} {path} {text[:200]} did not succeed; the last answer: {said}")
        return None

    def _write_down(self, batch: list[Event], answer: dict[str, object]) -> bool:
        distinct = len({event.identity for event in batch})
        if answer != {"accepted": distinct, "duplicates": len(batch) - distinct, "rejected": []}:
            self.faults.append(f"{len(batch)} events, {distinct} of them distinct, were answered with {answer}")
            return False
        with self.lock:
            for event in batch:
                self.ledger.send(event)
            self.acknowledged_at = time.monotonic()
        return True


def new_event(source: random.Random, event_id: str) -> Event:
    """An event of one of the load's customers; some late by up to 400 days, some that must not count."""
    late = timedelta(days=source.uniform(0, 400)) if source.random() < 0.3 else timedelta(minutes=source.uniform(0, 9))
    time_ = (datetime.now(UTC) - late).replace(microsecond=source.randrange(1_000_000))
    data = {"tokens": source.choice(TOKENS), "model": source.choice(MODELS), "region": source.choice(("eu", "us"))}
    odd = source.random()
    if odd < 0.01:
        data["tokens"] = "many"
    return Event(
        id=event_id,
        type="other" if 0.01 < odd < 0.03 else "llm",
        subject="nobody" if 0.03 < odd < 0.05 else source.choice(SUBJECTS),
        time=time_,
        data=json.dumps(data),
    )
