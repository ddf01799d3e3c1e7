import threading
from typing import Any

import pytest

from infra.settings import Settings
from ingestion_api.health import CACHE_SECONDS, Readier
from tests.support.api import Api

NAMES = ["postgres", "clickhouse", "kafka", "temporal"]


def test_the_process_says_that_it_lives_without_a_key(api: Api) -> None:
    response = api.with_key(None).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_readiness_names_every_server_with_its_state(api: Api) -> None:
    response = api.with_key(None).get("/readyz")
    ready = response.json()
    assert [component["name"] for component in ready["components"]] == NAMES
    states = {component["name"]: component["status"] for component in ready["components"]}
    assert states["postgres"] == states["clickhouse"] == "ok"
    assert all((part["latency_ms"] is not None) == (part["status"] == "ok") for part in ready["components"])
    healthy = "down" not in states.values()
    assert (response.status_code, ready["status"]) == ((200, "ok") if healthy else (503, "down"))


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
