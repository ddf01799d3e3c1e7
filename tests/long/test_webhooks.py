"""Webhooks in numbers: processes that are killed lose none, and a slow and a failing endpoint hold up no other."""

import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.webhooks.send import ANSWER_SECONDS
from tests.long.dev import OwnDev
from tests.oracle.wire import get, post, wait_for
from tests.support.receiver import Receiver, running_receiver

KILLS = int(os.environ.get("METERLINE_LONG_WEBHOOK_KILLS", "12"))
EVENTS = int(os.environ.get("METERLINE_LONG_WEBHOOKS", "10000"))
SLOW_SECONDS = 0.2  # an answer of the slow endpoint
SENDERS = 4
ARRIVAL_SECONDS = 600
DEAD = 48  # endpoints that never answer
GROWTH_MIB = 80  # of the worker, from the first thousand deliveries on


@contextmanager
def serving(data_dir: Path) -> Generator[tuple[OwnDev, httpx2.Client, Receiver]]:
    with OwnDev(data_dir) as dev, dev.client() as api, running_receiver() as receiver:
        yield dev, api, receiver


def listen(api: httpx2.Client, receiver: Receiver, path: str) -> str:
    return post(api, "/v1/webhook_endpoints", {"url": f"{receiver.url}{path}", "events": ["customer.created"]})["id"]


def make_customer(api: httpx2.Client, name: str) -> str:
    """Its id; asked for again and again while a process is down."""
    key = {"idempotency-key": name}

    def made() -> Any:
        try:
            answer = api.post("/v1/customers", json={"external_id": name}, headers=key)
        except httpx2.TransportError:
            return None
        assert answer.status_code in (201, 409, 500, 502, 503), answer.text
        return answer.json()["id"] if answer.status_code == 201 else None

    return _until(made, f"customer {name} is made")


def _until(found: Callable[[], Any], what: str) -> Any:
    kept: list[Any] = []

    def is_there() -> bool:
        kept[:] = [found()]
        return bool(kept[0])

    wait_for(is_there, what)
    return kept[0]


def log_of(api: httpx2.Client, endpoint_id: str) -> list[dict[str, Any]]:
    """All deliveries of an endpoint."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        page = get(api, f"/v1/webhook_endpoints/{endpoint_id}/deliveries", {"limit": "100", **more})
        found += page["data"]
        if not page["has_more"]:
            return found
        more = {"starting_after": page["next_cursor"]}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_of_worker_and_flow_lose_no_delivery_and_the_log_is_true(tmp_path: Path) -> None:
    source = random.Random(5)
    with serving(tmp_path) as (dev, api, receiver):
        endpoint_id = listen(api, receiver, "/hooks")
        made = 0
        for kill in range(KILLS):
            for _ in range(20):
                make_customer(api, f"c{made}")
                made += 1
            time.sleep(source.uniform(0, 1))  # so that kills meet other moments
            wait_for(lambda kill=kill: dev.kill(("worker", "flow")[kill % 2]), "it lives again, and is killed")
        wait_for(lambda: len(ids_at(receiver, "/hooks")) == made, "every event arrives", ARRIVAL_SECONDS)
        wait_for(lambda: all(each["status"] == "succeeded" for each in log_of(api, endpoint_id)), "it is written down")
        log = log_of(api, endpoint_id)
    arrived = ids_at(receiver, "/hooks")
    assert Counter(each["event"] for each in log) == Counter(arrived.keys())
    assert all(each["attempt_count"] <= arrived[each["event"]] for each in log), "an attempt that never arrived"
    again = sum(arrived.values()) - made
    sys.stdout.write(f"{KILLS} kills, {made} events: all arrived, {again} of them once more than was needed\n")


def ids_at(receiver: Receiver, path: str) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.at(path))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_slow_and_a_failing_endpoint_hold_up_no_other(tmp_path: Path) -> None:
    count = EVENTS // 2
    with serving(tmp_path) as (dev, api, receiver):
        receiver.slow_seconds["/slow"] = SLOW_SECONDS
        receiver.flaky.add("/failing")
        for path in ("/good", "/slow", "/failing"):
            listen(api, receiver, path)
        began = time.monotonic()
        sizes: list[tuple[int, float]] = []
        with ThreadPoolExecutor(SENDERS) as senders:
            made = [senders.submit(make_customer, api, f"c{number}") for number in range(count)]
            while not all(each.done() for each in made) or len(ids_at(receiver, "/good")) < count:
                sizes.append((len(receiver.received), resident_mib(dev)))
                assert time.monotonic() - began < ARRIVAL_SECONDS, f"{len(ids_at(receiver, '/good'))} of {count} came"
                time.sleep(1)
        good, meanwhile = time.monotonic() - began, len(receiver.received)
        for path, tries in (("/slow", count), ("/failing", 2 * count)):
            wait_for(lambda path=path, tries=tries: len(receiver.at(path)) >= tries, path, ARRIVAL_SECONDS)
            sizes.append((len(receiver.received), resident_mib(dev)))
    assert all(len(ids_at(receiver, path)) == count for path in ("/good", "/slow", "/failing"))
    early = [size for received, size in sizes if received >= 1_000]
    last = {path: max(request.at_seconds for request in receiver.at(path)) - began for path in ("/good", "/slow")}
    sys.stdout.write(
        f"{len(receiver.received)} requests for {3 * count} deliveries: all at the good endpoint after {good:.0f} s"
        f" ({meanwhile / good:.0f} requests/s to all three until then),"
        f" at the slow one after {last['/slow']:.0f} s; {len(receiver.at('/failing'))} tries at the failing one;"
        f" worker {early[0]:.0f} MiB at first, {max(early):.0f} at most, {early[-1]:.0f} at last\n"
    )
    assert last["/good"] < last["/slow"], "the good endpoint waited for the slow one"
    assert max(early) - early[0] < GROWTH_MIB


@pytest.mark.long
@pytest.mark.timeout(900)
def test_more_dead_endpoints_than_there_are_threads_hold_up_no_other(tmp_path: Path) -> None:
    count = EVENTS // DEAD
    with serving(tmp_path) as (_, api, receiver), socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = replace(receiver, url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        dead = [listen(api, hanging, "/") for _ in range(DEAD)]
        make_customer(api, "first")
        for endpoint_id in dead:
            path = f"/v1/webhook_endpoints/{endpoint_id}"
            wait_for(lambda path=path: get(api, path)["failing_since"], "it is known that it fails", ARRIVAL_SECONDS)
        listen(api, receiver, "/good")
        made_at: dict[str, float] = {}
        for number in range(count):
            customer_id = make_customer(api, f"c{number}")
            made_at[customer_id] = time.monotonic()
        wait_for(lambda: len(ids_at(receiver, "/good")) == count, "the good endpoint is told of all", ARRIVAL_SECONDS)
        came_at = {json.loads(each.body)["data"]["id"]: each.at_seconds for each in receiver.at("/good")}
        assert get(api, f"/v1/webhook_endpoints/{dead[0]}/deliveries", {"status": "pending"})["data"]
    longest = max(came_at[customer_id] - at for customer_id, at in made_at.items())
    sys.stdout.write(f"{count} events beside {DEAD} dead endpoints: told after {longest:.1f} s at most\n")
    assert longest < ANSWER_SECONDS, "the good endpoint waited until a dead one was given up"


def resident_mib(dev: OwnDev) -> float:
    worker = dev.process("worker")
    return 0.0 if worker is None else worker.memory_info().rss / 2**20
