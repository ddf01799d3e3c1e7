"""A broker that stands still under load: refusals that say when to come again, bounded memory, nothing promised in
vain, and recovery by itself."""

import itertools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from infra.kafka.event_log import unseal
from tests.infra.local.own_stack import OwnStack, wait_for
from tests.ingestion_api.test_service import KEY, running_service
from tests.support.log import read_messages

SENDERS = 6
EVENTS_A_REQUEST = 400
PAD = "x" * 800  # a request is about 350 kB
BYTES_IN_FLIGHT = 8 * 1024 * 1024
#: What a process may grow by: bodies, what is decoded of them, the producer's queue, and the allocator's slack.
MAX_GROWTH_BYTES = 16 * BYTES_IN_FLIGHT
PAUSE_SECONDS = 0.02


class Load:
    """Senders that go on whatever they are answered, each request with ids of its own; keeps a ledger."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.strange: list[str] = []
        self.offered_bytes = 0
        self._url = url
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _send(self) -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        with httpx2.Client(base_url=self._url, headers=headers, timeout=60) as client:
            while not self._stop.is_set():
                number = next(self._numbers)
                body = body_of(number)
                answer = client.post("/v1/events", content=body)
                self.offered_bytes += len(body)
                if answer.status_code == 202 and answer.json()["accepted"] == EVENTS_A_REQUEST:
                    self.acknowledged.append(number)
                elif answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1:
                    self.refused.append(number)
                else:
                    self.strange.append(f"{answer.status_code}: {answer.text}")
                time.sleep(PAUSE_SECONDS)


def ids_of(number: int) -> set[bytes]:
    return {b"%d-%d" % (number, place) for place in range(EVENTS_A_REQUEST)}


def body_of(number: int) -> bytes:
    return json.dumps(
        [
            {"id": f"{number}-{place}", "type": "t", "subject": "s", "data": {"pad": PAD}}
            for place in range(EVENTS_A_REQUEST)
        ]
    ).encode()


def ids_on_log(values: Iterator[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for value in values:
        batch = unseal(value)
        start = 0
        for length in memoryview(batch.id_lengths).cast("H"):
            found.add(batch.ids[start : start + length])
            start += length
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stopped_seconds", [8, pytest.param(60, marks=pytest.mark.long)], ids=["a moment", "a minute"])
def test_a_broker_that_stands_still_costs_no_event_and_no_memory(tmp_path: Path, stopped_seconds: int) -> None:
    stack = OwnStack(tmp_path / "stack")
    try:
        settings = stack.settings()
        broker = stack.children()["kafka"]
        limits = {
            "METERLINE_INGEST_BYTES_IN_FLIGHT": str(BYTES_IN_FLIGHT),
            "METERLINE_INGEST_ACK_TIMEOUT_SECONDS": "3",
            "METERLINE_LOG_LEVEL": "error",
        }
        with running_service(settings, **limits) as (process, url):
            memory = psutil.Process(process.pid).memory_info
            with Load(url) as load:
                wait_for(lambda: len(load.acknowledged) >= 2 * SENDERS, "requests are acknowledged")
                before = memory().rss
                broker.send_signal(signal.SIGSTOP)
                try:
                    stopped_at = time.monotonic()
                    wait_for(lambda: len(load.refused) >= 2 * SENDERS, "requests are refused")
                    promised, peak = len(load.acknowledged), before
                    while time.monotonic() < stopped_at + stopped_seconds:
                        peak = max(peak, memory().rss)
                        time.sleep(0.05)
                    assert len(load.acknowledged) == promised, "a broker that stands still acknowledges nothing"
                finally:
                    broker.send_signal(signal.SIGCONT)
                wait_for(lambda: len(load.acknowledged) >= promised + 2 * SENDERS, "it goes on by itself")
            assert process.poll() is None
            assert load.strange == []
            assert peak - before < MAX_GROWTH_BYTES, f"{(peak - before) >> 20} MiB more than before"
        on_log = ids_on_log(message.value for message in read_messages(settings))
        assert set().union(*map(ids_of, load.acknowledged)) <= on_log
        assert on_log <= set().union(*map(ids_of, load.acknowledged + load.refused))
    finally:
        stack.stop()
