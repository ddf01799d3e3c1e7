"""How far plain events pass a hard limit: clients that check before each event, and send it if they may.

Between an event's 202 and the check that knows of it others may pass. So the overshoot is about what is sent in that
time, however large the limit is.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx2

LIMIT = 2_000
SETTLE_SECONDS = 30
POLL_SECONDS = 0.1
PROBE = {"customer": "over", "feature": "over"}


def measure_overshoot(url: str, key: str, clients: int) -> dict[str, object]:
    """The events that so many clients sent, the limit, and by how many it was passed."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=30) as api:
        _prepare(api)
        started = time.monotonic()
        with ThreadPoolExecutor(clients) as threads:
            using = [threads.submit(_use, url, headers, number) for number in range(clients)]
            sent = sum(each.result() for each in using)
        seconds = time.monotonic() - started
        deadline = time.monotonic() + SETTLE_SECONDS
        while (used := _used(api)) < sent and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    return {
        "clients": clients,
        "limit": LIMIT,
        "events_acknowledged": sent,
        "used": str(used),
        "overshoot": sent - LIMIT,
        "events_a_second": round(sent / seconds),
    }


def _use(url: str, headers: dict[str, str], number: int) -> int:
    """Check and send until the check refuses; how many were sent."""
    sent = 0
    with httpx2.Client(base_url=url, headers=headers, timeout=30) as api:
        while api.post("/v1/entitlements/check", json={**PROBE, "quantity": "1"}).json()["allowed"]:
            event = {"id": f"{number}-{sent}", "type": "over", "subject": "over"}
            if api.post("/v1/events", json=event).status_code == 202:
                sent += 1
    return sent


def _prepare(api: httpx2.Client) -> None:
    granted = [{"feature": "over", "limit": str(LIMIT), "reset": "never"}]
    for path, body in (
        ("/v1/meters", {"key": "over", "event_type": "over", "aggregation": "count"}),
        ("/v1/features", {"key": "over", "type": "metered", "meter": "over"}),
        ("/v1/plans", {"key": "over", "currency": "USD", "prices": [], "entitlements": granted}),
        ("/v1/customers", {"external_id": "over"}),
        ("/v1/subscriptions", {"customer": "over", "plan": "over"}),
    ):
        answer = api.post(path, json=body)
        if answer.status_code != 201:
            raise SystemExit(f"{path}: {answer.status_code}: {answer.text}")
    deadline = time.monotonic() + SETTLE_SECONDS
    while _used(api) != 0:  # until then nobody counts
        if time.monotonic() > deadline:
            raise SystemExit(f"the period is not counted after {SETTLE_SECONDS} s")
        time.sleep(POLL_SECONDS)


def _used(api: httpx2.Client) -> Decimal:
    return Decimal(api.post("/v1/entitlements/check", json=PROBE).json()["used"] or -1)
