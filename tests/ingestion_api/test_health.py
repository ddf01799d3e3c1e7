import asyncio
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from infra.liveness import FLOW_LIMIT_SECONDS, WORKER_LIMIT_SECONDS, Liveness, ask_flow, ask_worker
from infra.migrate import migrate_postgres
from infra.postgres.pool import connect
from infra.settings import Settings
from ingestion_api.health import CACHE_SECONDS, Readier
from schemas.workflows import BILLING_TASK_QUEUE
from tests.support.api import Api
from tests.support.services import make_namespace

NAMES = ["postgres", "clickhouse", "kafka", "temporal", "flow", "worker"]


def test_the_process_says_that_it_lives_without_a_key(api: Api) -> None:
    response = api.with_key(None).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_readiness_names_every_server_with_its_state(api: Api) -> None:
    response = api.with_key(None).get("/readyz")
    ready = response.json()
    assert [component["name"] for component in ready["components"]] == NAMES
    states = {component["name"]: component["status"] for component in ready["components"]}
    assert states["postgres"] == states["clickhouse"] == "ok"
    assert all(part["latency_ms"] is not None or part["status"] == "down" for part in ready["components"])
    assert states["flow"] == "starting"  # none runs over these databases
    assert (response.status_code, ready["status"]) == (503, "down")


def test_metering_is_down_when_one_partition_is_not_counted_or_not_stored_up_to_a_minute_ago(
    fresh_stack: Settings,
) -> None:
    now = datetime.fromisoformat("2026-03-10T12:00:00Z")
    with closing(connect(fresh_stack.postgres_dsn)) as connection:
        migrate_postgres(connection)
        for partition in range(fresh_stack.events_partitions):
            assert ask_flow(fresh_stack, 5, now).status == "starting"
            connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until, stored_until)"
                " VALUES (%s, %s, 0, %s, %s)",
                (fresh_stack.events_topic, partition, now, now),
            )
        assert ask_flow(fresh_stack, 5, now).status == "ok"
        assert ask_flow(fresh_stack, 5, now + timedelta(seconds=FLOW_LIMIT_SECONDS)).status == "ok"
        for column in ("counted_until", "stored_until"):
            set_column = SQL("UPDATE shard_offsets SET {} = %s WHERE partition = 1").format(Identifier(column))
            connection.execute(set_column, (now - timedelta(seconds=100),))
            found = ask_flow(fresh_stack, 5, now)
            assert (found.status, found.detail.partition(";")[0]) == ("down", "usage is 100 s behind")
            connection.execute(set_column, (now,))


@workflow.defn
class Nothing:
    @workflow.run
    async def run(self) -> None:
        return


def test_billing_is_known_by_the_worker_that_asks_for_work(stack: Settings) -> None:
    own = stack.model_copy(update={"temporal_namespace": make_namespace(stack)})
    assert ask_worker(own, 5, datetime.now(UTC)).status == "starting"

    async def with_worker() -> list[Liveness]:
        client = await Client.connect(own.temporal_address, namespace=own.temporal_namespace)
        async with Worker(
            client, task_queue=BILLING_TASK_QUEUE, workflows=[Nothing], workflow_runner=UnsandboxedWorkflowRunner()
        ):
            deadline = time.monotonic() + 30
            while (await asyncio.to_thread(ask_worker, own, 5, datetime.now(UTC))).status != "ok":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        later = datetime.now(UTC) + timedelta(seconds=WORKER_LIMIT_SECONDS + 1)
        return [await asyncio.to_thread(ask_worker, own, 5, later)]

    assert [found.status for found in asyncio.run(with_worker())] == ["down"]


def test_a_server_that_does_not_answer_is_named_within_the_limit(stack: Settings) -> None:
    closed = "127.0.0.1:1"
    readier = Readier(
        stack.model_copy(
            update={
                "clickhouse_url": f"http://{closed}/x",
                "kafka_bootstrap": closed,
                "temporal_address": "",
            }
        )
    )
    ready = readier.readiness()
    readier.close()
    assert ready["status"] == "down"
    assert {part["name"]: part["status"] for part in ready["components"]} == {
        "postgres": "ok",
        "clickhouse": "down",
        "kafka": "down",
        "temporal": "unconfigured",
        "flow": "down",  # these databases have no tables
        "worker": "unconfigured",
    }


def test_servers_are_asked_once_however_often_readiness_is(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.postgres import probe

    asked: list[str] = []
    real = probe.probe

    def counting(address: str, timeout_seconds: float) -> str:
        asked.append(address)
        return real(address, timeout_seconds)

    monkeypatch.setattr(probe, "probe", counting)
    only_postgres = {"clickhouse_url": "", "kafka_bootstrap": "", "temporal_address": ""}
    now = [0.0]
    readier = Readier(stack.model_copy(update=only_postgres), monotonic=lambda: now[0])
    threads = [threading.Thread(target=readier.readiness) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    now[0] = CACHE_SECONDS
    readier.readiness()
    readier.close()
    assert len(asked) == 2


def test_metrics_count_requests_by_route_and_never_by_path(api: Api) -> None:
    api.get("/v1/customers/some-name-of-mine", status=404)
    text = api.with_key(None).get("/metrics").text
    assert 'meterline_http_requests_total{method="GET",route="/v1/customers/{customer}",status="404"}' in text
    assert "some-name-of-mine" not in text


def test_a_method_of_the_clients_own_making_makes_no_metric_of_its_own(api: Api) -> None:
    for number in range(3):
        assert api.http.request(f"FOO{number}", "/v1/customers").status_code == 405
    text = api.with_key(None).get("/metrics").text
    assert "FOO" not in text
    assert 'method="other",route="' in text


def test_a_request_is_one_line_in_the_log(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.http.get("/v1/customers/acme", headers={"x-request-id": "line-1"})
    captured: Any = capsys.readouterr()
    [line] = [line for line in (captured.out + captured.err).splitlines() if "line-1" in line]
    assert "404" in line
    assert "mtr_" not in line
