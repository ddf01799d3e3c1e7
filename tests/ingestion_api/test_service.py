"""The API service as a process: one process, requests on a socket, an orderly end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.event_log import unseal
from infra.kafka.topics import ensure_topics
from infra.local.ports import choose
from infra.migrate import migrate
from infra.postgres.pool import connect
from infra.settings import Settings
from schemas.events import MAX_REQUEST_BYTES
from tests.support.log import read_messages

KEY = "mtr_key-of-the-service-test"
START_SECONDS = 60
EVENT = {"id": "1", "type": "t", "subject": "s"}


@contextmanager
def running_service(settings: Settings, **overrides: str) -> Generator[tuple[subprocess.Popen[bytes], str]]:
    connection = connect(settings.postgres_dsn)
    store = connect_clickhouse(settings.clickhouse_url)
    migrate(connection, store)
    connection.close()
    store.close()
    ensure_topics(settings)
    port = choose(set())
    names = ("postgres_dsn", "clickhouse_url", "kafka_bootstrap", "events_topic", "balances_topic", "system_topic")
    environment = {f"METERLINE_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment |= {"METERLINE_API_PORT": str(port), "METERLINE_ROOT_KEY": KEY, **overrides}
    with subprocess.Popen([sys.executable, "-m", "ingestion_api"], env=os.environ | environment) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    if httpx2.get(url + "/healthz").status_code == 200:
                        break
                except httpx2.TransportError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    time.sleep(0.05)
            yield process, url
        finally:
            if process.poll() is None:
                process.kill()


def children_of(process_id: int) -> list[str]:
    return Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()


def test_requests_under_way_are_answered_before_the_process_ends(fresh_stack: Settings) -> None:
    with running_service(fresh_stack, METERLINE_INGEST_LINGER_MS="1000") as (process, url):
        port = int(url.rpartition(":")[2])
        body = json.dumps(EVENT).encode()
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            head = (
                f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n"
            )
            waiting.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
            time.sleep(0.3)  # less than the linger: the request is in, its answer is not out
            process.send_signal(signal.SIGTERM)
            assert waiting.recv(4096).startswith(b"HTTP/1.1 202")
        assert process.wait(20) == 0
    assert [unseal(message.value).count for message in read_messages(fresh_stack)] == [1]


def test_it_is_one_process_so_a_kill_leaves_nothing_behind(fresh_stack: Settings) -> None:
    with running_service(fresh_stack) as (process, url):
        assert children_of(process.pid) == []
        process.kill()
        process.wait(10)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(url + "/healthz")


def test_errors_of_the_hot_path_are_problem_documents(fresh_stack: Settings) -> None:
    with running_service(fresh_stack) as (_, url), httpx2.Client(base_url=url) as client:
        good = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "x-request-id": "mine-1"}
        cases = [
            (good, b"nope", 400, "request.invalid_json"),
            (good, b"[]", 422, "event.all_rejected"),
            (good, b"[{}]", 422, "event.all_rejected"),
            (good | {"content-type": "text/csv"}, b"", 415, "request.unsupported_media_type"),
            (good | {"content-encoding": "br"}, b"", 415, "request.unsupported_media_type"),
            (good | {"content-encoding": "gzip"}, b"x", 400, "request.invalid_encoding"),
            (good, b" " * (16 * 1024 * 1024 + 1), 413, "request.too_large"),
            ({"x-request-id": "mine-1"}, b"[]", 401, "auth.missing_key"),
            (good | {"authorization": "Bearer mtr_other"}, b"[]", 401, "auth.invalid_key"),
        ]
        for headers, body, status, code in cases:
            answer = client.post("/v1/events", headers=headers, content=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
        answer = client.post("/v1/events", headers=good, content=json.dumps([EVENT, EVENT, {}]))
        assert answer.status_code == 202
        assert answer.json() == {
            "accepted": 1,
            "duplicates": 1,
            "rejected": [{"index": 2, "id": None, "code": "event.missing_field", "detail": "id is required"}],
        }
        assert answer.headers["x-request-id"] == "mine-1"
        chunks = iter([b'[{"id":"2",', b'"type":"t","subject":"s"}]'])
        assert client.post("/v1/events", headers=good, content=chunks).json()["accepted"] == 1


def test_connections_that_announce_much_and_send_nothing_stop_nobody(fresh_stack: Settings) -> None:
    with running_service(fresh_stack) as (_, url), ExitStack() as idle:
        port = int(url.rpartition(":")[2])
        for _ in range(8):  # 128 MiB announced: twice what the process holds
            waiting = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            head = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            waiting.sendall(head.encode() + f"content-length: {MAX_REQUEST_BYTES}\r\n\r\n[".encode())
        good = {"authorization": f"Bearer {KEY}"}
        for _ in range(8):  # more than one wake-up of the server, so that all of the idle ones are under way
            assert httpx2.post(url + "/v1/events", headers=good, json=EVENT).status_code == 202


def test_a_broker_that_is_away_is_a_503_that_says_when_to_come_again(fresh_stack: Settings) -> None:
    away = {"METERLINE_KAFKA_BOOTSTRAP": "127.0.0.1:9", "METERLINE_INGEST_ACK_TIMEOUT_SECONDS": "1"}
    with running_service(fresh_stack, **away) as (_, url):
        answer = httpx2.post(url + "/v1/events", headers={"authorization": f"Bearer {KEY}"}, json=EVENT, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "broker.unavailable")
        assert int(answer.headers["retry-after"]) >= 1
