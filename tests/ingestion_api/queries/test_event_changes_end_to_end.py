"""Quarantine, replay and void of events with everything running, over HTTP alone."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.services import Services
from tests.support.usage_log import wait_for

RANGE = {"from": "2026-03-07T00:00:00Z", "to": "2026-03-08T00:00:00Z", "window": "none"}


@pytest.fixture
def http(services: Services) -> Iterator[httpx2.Client]:
    """A tenant of the test's own with the meter `tokens` and a plan that limits it."""
    with services.client(services.new_tenant_key()) as client:
        made(client.post("/v1/meters", json={"key": "tokens", "event_type": "call", "aggregation": "sum",
                                             "value": "$.tokens"}))  # fmt: skip
        made(client.post("/v1/features", json={"key": "tokens", "name": "Tokens", "type": "metered",
                                               "meter": "tokens"}))  # fmt: skip
        made(client.post("/v1/plans", json={
            "key": "pro", "name": "Pro", "currency": "USD", "prices": [],
            "entitlements": [{"feature": "tokens", "limit": "1000", "reset": "never", "enforcement": "hard"}],
        }))  # fmt: skip
        yield client


def made(answer: httpx2.Response, status: int = 201) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def send(http: httpx2.Client, event_id: str, data: dict[str, Any], event_type: str = "call") -> None:
    event = {"id": event_id, "type": event_type, "subject": "acme", "time": "2026-03-07T12:00:00Z", "data": data}
    assert made(http.post("/v1/events", json=event), 202)["accepted"] == 1


def event_of(http: httpx2.Client, event_id: str) -> dict[str, Any]:
    answer = http.get(f"/v1/events/{event_id}")
    return answer.json() if answer.status_code == 200 else {"status": answer.json()["code"], "copies": 0}


def wait_status(http: httpx2.Client, event_id: str, status: str) -> dict[str, Any]:
    wait_for(lambda: event_of(http, event_id)["status"] == status, f"{event_id} is {status}")
    return event_of(http, event_id)


def usage(http: httpx2.Client) -> str:
    rows = made(http.get("/v1/usage", params={"meter": "tokens", **RANGE}), 200)["data"]
    return rows[0]["value"] if rows else "0"


def used(http: httpx2.Client) -> str:
    return made(http.post("/v1/entitlements/check", json={"customer": "acme", "feature": "tokens"}), 200)["used"]


def make_customer(http: httpx2.Client) -> None:
    made(http.post("/v1/customers", json={"external_id": "acme", "name": "Acme", "currency": "USD"}))
    made(http.post("/v1/subscriptions", json={"customer": "acme", "plan": "pro", "start_at": "2026-03-01T00:00:00Z"}))


def steps(event: dict[str, Any]) -> list[str]:
    return [step["step"] for step in event["trace"]]


@pytest.mark.timeout(180)
def test_an_event_of_an_unknown_customer_counts_by_itself_once_it_is_there_and_no_more_once_it_is_voided(
    services: Services, http: httpx2.Client
) -> None:
    send(http, "early", {"tokens": 40})
    assert "acme" in wait_status(http, "early", "quarantined")["trace"][-1]["detail"]
    make_customer(http)
    send(http, "later", {"tokens": 2})
    event = wait_status(http, "early", "counted")
    assert steps(event) == ["received", "quarantined", "replayed", "customer", "counted"]
    assert all(step["at"] for step in event["trace"])
    wait_for(lambda: (usage(http), used(http)) == ("42", "42"), "both events count")

    voided = made(http.post("/v1/events/void", json={"id": "early"}, headers={"idempotency-key": "v1"}), 200)
    assert (voided["status"], voided["meters"]) == ("voided", [])
    assert (usage(http), steps(voided)[-1]) == ("2", "voided")
    wait_for(lambda: used(http) == "2", "the counter falls")
    again = http.post("/v1/events/void", json={"id": "early"}, headers={"idempotency-key": "v1"})
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (200, "true", voided)
    assert made(http.post("/v1/events/void", json={"id": "early"}), 200)["status"] == "voided"

    names = [{"id": "later"}, {"id": "none"}, {"id": "early", "source": "api"}]
    several = made(http.post("/v1/events/void", json={"events": names}), 200)
    assert [each.get("status") for each in several["data"]] == ["voided", None, "voided"]
    assert (several["data"][1]["code"], usage(http)) == ("event.not_found", "0")

    with services.client(services.new_tenant_key()) as stranger:
        missing = stranger.post("/v1/events/void", json={"id": "later"})
        assert (missing.status_code, missing.json()["code"]) == (404, "event.not_found")

    send(http, "early", {"tokens": 40.0})
    wait_for(lambda: event_of(http, "early")["copies"] == 1, "the copy is a duplicate")
    event = event_of(http, "early")
    assert (event["status"], event["conflict"], usage(http)) == ("voided", False, "0")
    assert {each["id"] for each in made(http.get("/v1/events?status=voided"), 200)["data"]} == {"later", "early"}
    assert [each["id"] for each in made(http.get("/v1/events?status=duplicate"), 200)["data"]] == ["early"]


@pytest.mark.timeout(180)
def test_an_event_whose_value_could_not_be_read_is_replayed_by_its_code(http: httpx2.Client) -> None:
    make_customer(http)
    for body in ({"key": "strict", "aggregation": "sum", "value": "$.n"}, {"key": "visits", "aggregation": "count"}):
        made(http.post("/v1/meters", json={"event_type": "visit", **body}))
    for event_id in ("odd", "worse"):
        send(http, event_id, {"n": "many"}, event_type="visit")
    event = wait_status(http, "odd", "quarantined")
    assert (event["code"], event["meters"]) == ("event.invalid_value", [])
    assert "'strict'" in event["trace"][-1]["detail"]
    assert '$.n stands "many"' in event["trace"][-1]["detail"]
    wait_status(http, "worse", "quarantined")
    assert made(http.post("/v1/events/void", json={"id": "worse"}), 200)["status"] == "voided"

    made(http.post("/v1/meters/strict/archive", json={}), 200)
    assert made(http.post("/v1/events/replay", json={"code": "event.invalid_data"}), 202)["requested"] == 0
    request = {"code": "event.invalid_value", "from": "2026-03-07T00:00:00Z", "to": "2026-03-08T00:00:00Z"}
    assert made(http.post("/v1/events/replay", json=request), 202) == {
        "object": "replay",
        "requested": 1,
        "has_more": False,
        "next_cursor": None,
    }

    def counted() -> bool:
        made(http.post("/v1/events/replay", json=request), 202)  # the flow may not know of the archived meter at once
        return event_of(http, "odd")["status"] == "counted"

    wait_for(counted, "the replayed event counts")
    event = event_of(http, "odd")
    assert [taken["meter"] for taken in event["meters"]] == ["visits"]
    assert steps(event) == ["received", "customer", "quarantined", "replayed", "customer", "counted", "not_taken"]
    assert event_of(http, "worse")["status"] == "voided"  # it stays so, whatever is replayed
    missing = http.post("/v1/events/void", json={"id": "never-sent"})
    assert (missing.status_code, missing.json()["code"]) == (404, "event.not_found")
