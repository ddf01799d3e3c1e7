"""A year of billing in seconds: test clocks over HTTP, through every service as `meterline dev` runs them."""

import time
from typing import Any

import httpx2
import pytest

from tests.support.services import Services

WAIT_SECONDS = 60
PRICES = [
    {"key": "base", "type": "fixed", "model": "flat", "amount": "49"},
    {"key": "tokens", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "0.001"},
]


def post(api: httpx2.Client, path: str, body: Any, status: int = 201) -> Any:
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def wait_for(what: str, ask: Any) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := ask()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def advance(api: httpx2.Client, clock: str, to: str) -> None:
    assert post(api, f"/v1/test_clocks/{clock}/advance", {"to": to}, 200)["status"] == "advancing"
    wait_for("the clock", lambda: api.get(f"/v1/test_clocks/{clock}").json()["status"] == "ready")
    assert api.get(f"/v1/test_clocks/{clock}").json()["now"] == to


def event(number: int, time_text: str | None, subject: str = "acme") -> dict[str, Any]:
    made: dict[str, Any] = {"id": f"e-{number}", "type": "llm", "subject": subject, "data": {"tokens": 1000}}
    return made if time_text is None else {**made, "time": time_text}


@pytest.mark.timeout(240)
def test_a_year_of_billing_follows_the_clock(services: Services) -> None:
    with services.client(services.new_tenant_key()) as api:
        post(api, "/v1/meters", {"key": "tokens", "event_type": "llm", "aggregation": "sum", "value": "$.tokens"})
        post(api, "/v1/plans", {"key": "pro", "name": "Pro", "currency": "USD", "prices": PRICES})
        assert api.post("/v1/events", json=[event(0, "2031-01-01T00:00:00Z")]).status_code == 422
        clock = post(api, "/v1/test_clocks", {"now": "2031-01-01T00:00:00Z", "name": "a year"})
        post(api, "/v1/customers", {"external_id": "acme", "test_clock": clock["id"]})
        post(api, "/v1/customers", {"external_id": "real"})
        subscription = post(api, "/v1/subscriptions", {"customer": "acme", "plan": "pro"})
        assert subscription["start_at"] == "2031-01-01T00:00:00Z"
        # Each is ahead of the clock, and of real time; the last is of a customer without a clock.
        times = [f"2031-{month:02d}-10T00:00:00Z" for month in range(1, 13)]
        post(api, "/v1/events", [event(n, at) for n, at in enumerate(times, start=1)], 202)
        post(api, "/v1/events", event(20, None), 202)
        post(api, "/v1/events", event(21, "2031-01-05T00:00:00Z", subject="real"), 202)
        post(api, "/v1/events", event(22, "2031-02-01T00:00:00Z"), 202)
        wait_for("the first invoice", lambda: len(invoices(api, subscription)) == 1)

        advance(api, clock["id"], "2031-02-01T00:00:00Z")
        assert [invoice["total"] for invoice in invoices(api, subscription)] == ["49.00", "51.00"]
        assert api.get("/v1/events/e-22").json()["status"] == "counted", "at what the clock shows, and not ahead of it"
        assert api.get("/v1/events/e-2").json()["code"] == "event.time_in_future"
        assert api.get("/v1/events/e-20").json()["time"] == "2031-01-01T00:00:00Z"
        assert api.get("/v1/events/e-21").json()["code"] == "event.time_in_future"

        advance(api, clock["id"], "2032-01-01T00:00:00Z")
        found = invoices(api, subscription)
        assert [invoice["total"] for invoice in found] == ["49.00", "51.00", "51.00", *["50.00"] * 10]
        assert [invoice["finalized_at"] for invoice in found][:3] == [
            "2031-01-01T00:00:00Z",
            "2031-02-01T00:00:00Z",
            "2031-03-01T00:00:00Z",
        ]
        assert api.get("/v1/events/e-21").json()["status"] == "quarantined"
        back = api.post(f"/v1/test_clocks/{clock['id']}/advance", json={"to": "2031-12-31T00:00:00Z"})
        assert (back.status_code, back.json()["code"]) == (409, "test_clock.backwards")


def invoices(api: httpx2.Client, subscription: dict[str, Any]) -> list[Any]:
    """Oldest first."""
    query = {"subscription": subscription["id"], "limit": "100"}
    return api.get("/v1/invoices", params=query).json()["data"][::-1]
