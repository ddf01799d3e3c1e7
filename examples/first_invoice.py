"""From nothing to a first invoice, over HTTP, against a running `meterline dev`.

Run it: `METERLINE_URL=http://127.0.0.1:8080 METERLINE_API_KEY=mtr_… .venv/bin/python examples/first_invoice.py`
"""

import os
import time
from typing import Any

import httpx2

WAIT_SECONDS = 60

PLAN: dict[str, Any] = {
    "key": "storage",
    "name": "Storage",
    "currency": "EUR",
    "prices": [
        {"key": "base", "type": "fixed", "model": "flat", "amount": "5", "billing_period": "month"},
        {"key": "uploads", "type": "usage", "meter": "uploads", "model": "per_unit", "unit_amount": "0.002"},
    ],
}


def main() -> None:
    """Set a small shop up, send three events, and print the first invoice and what the next one says so far."""
    key = os.environ["METERLINE_API_KEY"]
    with httpx2.Client(base_url=os.environ["METERLINE_URL"], headers={"authorization": f"Bearer {key}"}) as api:

        def post(path: str, body: Any) -> dict[str, Any]:
            return api.post(path, json=body).raise_for_status().json()

        post("/v1/meters", {"key": "uploads", "name": "Uploads", "event_type": "upload", "aggregation": "count"})
        post("/v1/plans", PLAN)
        post("/v1/customers", {"external_id": "brook", "name": "Brook", "currency": "EUR", "timezone": "Europe/Berlin"})
        subscription = post("/v1/subscriptions", {"customer": "brook", "plan": "storage"})
        events = [{"id": f"upload-{n}", "type": "upload", "subject": "brook"} for n in range(3)]
        print("acknowledged:", post("/v1/events", events)["accepted"])

        invoice = wait_for_invoice(api)
        print(f"{invoice['number']}: {invoice['total']} {invoice['currency']}")
        preview = post("/v1/invoices/preview", {"subscription": subscription["id"]})
        for line in preview["lines"]:
            print(f"  next: {line['description']}: {line['amount']}")


def wait_for_invoice(api: httpx2.Client) -> dict[str, Any]:
    """The customer's first invoice; it is issued within seconds of the subscription's start."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        invoices = api.get("/v1/invoices", params={"customer": "brook"}).raise_for_status().json()["data"]
        if invoices:
            return invoices[0]
        time.sleep(0.2)
    raise TimeoutError(f"no invoice within {WAIT_SECONDS} s; is the billing worker running? Try: meterline doctor")


if __name__ == "__main__":
    main()
