"""From events over HTTP to invoices, through every service as `meterline dev` runs them."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from tests.support.services import Services

WAIT_SECONDS = 60
PLAN = {
    "key": "pro",
    "name": "Pro",
    "currency": "USD",
    "prices": [
        {"key": "base", "type": "fixed", "model": "flat", "amount": "49"},
        {"key": "seats", "type": "fixed", "model": "per_unit", "unit_amount": "10"},
        {"key": "tokens", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "0.001"},
    ],
}


def post(api: httpx2.Client, path: str, body: Any, status: int = 201) -> Any:
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def wait_for(what: str, ask: Any) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := ask()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


def test_events_become_invoices_and_a_cancellation_waits_for_its_usage(services: Services) -> None:
    key = services.new_tenant_key()
    now = datetime.now(UTC)
    start = (now - timedelta(days=40)).replace(hour=10, minute=0, second=30, microsecond=0)
    with services.client(key) as api:
        post(api, "/v1/meters", {"key": "tokens", "event_type": "llm", "aggregation": "sum", "value": "$.tokens"})
        post(api, "/v1/plans", PLAN)
        post(api, "/v1/customers", {"external_id": "acme", "name": "Acme", "currency": "USD", "timezone": "UTC"})
        times = [start, start + timedelta(days=3), now]
        events = [
            {
                "id": f"r-{n}",
                "type": "llm",
                "subject": "acme",
                "time": at.isoformat(),
                "data": {"tokens": 1000 * (n + 1)},
            }
            for n, at in enumerate(times)
        ]
        post(api, "/v1/events", events, status=202)
        acknowledged = datetime.now(UTC).isoformat()

        def counted() -> bool:
            period = {"from": start.isoformat(), "to": (now + timedelta(minutes=1)).isoformat()}
            usage = api.get("/v1/usage", params={"meter": "tokens", "customer": "acme", **period}).json()
            return usage["as_of"] is not None and usage["as_of"] > acknowledged.replace("+00:00", "Z")

        wait_for("the events to be counted", counted)
        body = {"customer": "acme", "plan": "pro", "start_at": start.isoformat(), "quantities": {"seats": "3"}}
        subscription = post(api, "/v1/subscriptions", body)["id"]

        def issued() -> list[Any]:
            found = api.get("/v1/invoices", params={"subscription": subscription}).json()["data"]
            return found if len(found) == 2 else []

        second, first = wait_for("both invoices", issued)
        assert [first["number"], second["number"]] == ["INV-000001", "INV-000002"]
        assert (first["total"], second["total"]) == ("79.00", "82.00")
        amounts = {line["key"]: (line["quantity"], line["amount"]) for line in second["lines"]}
        assert amounts == {"base": ("1", "49.00"), "seats": ("3", "30.00"), "tokens": ("3000", "3.00")}

        running = api.get(f"/v1/subscriptions/{subscription}/usage").json()
        assert running["total"] == "3.00"
        command = [sys.executable, "-m", "infra.cli.app", "preview", subscription, "--url", services.url]
        shown = subprocess.run([*command, "--api-key", key, "--json"], capture_output=True, text=True, check=True)
        preview = json.loads(shown.stdout)
        assert preview["total"] == "82.00"
        assert preview["lines"] == post(api, "/v1/invoices/preview", {"subscription": subscription}, 200)["lines"]
        table = subprocess.run([*command, "--api-key", key], capture_output=True, text=True, check=True)
        assert "Amount due" in table.stdout
        refused = subprocess.run([*command, "--api-key", "mtr_x"], capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "auth.invalid_key" in refused.stderr

        canceled = post(api, f"/v1/subscriptions/{subscription}/cancel", {"at": "now"}, status=200)
        assert canceled["status"] == "canceled"
        assert len(issued()) == 2  # the closing invoice waits for the grace of its usage
        closing = post(api, "/v1/invoices/preview", {"subscription": subscription}, status=200)
        assert [line["key"] for line in closing["lines"]] == ["tokens"]
