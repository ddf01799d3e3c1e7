"""Freshness: how long after a 202 an event shows in usage and in the counter of an entitlement."""

import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2

PROBE_CUSTOMER = "probe"
PROBE_TYPE = "probe.event"
METER, FEATURE, PLAN = "probes", "probes", "probes"
POLL_SECONDS = 0.025  # a look costs milliseconds of CPU: more of them would slow what they watch
PAUSE_SECONDS = 0.25
GIVE_UP_SECONDS = 30


@dataclass(slots=True)
class Probe:
    """Sends single events of a customer of its own, one after another, and waits for each to show."""

    client: httpx2.Client
    prefix: str
    usage_ms: list[float] = field(default_factory=list[float])
    counter_ms: list[float] = field(default_factory=list[float])
    _sent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        """Make the customer, the meter and an entitlement that is counted."""
        self._post("/v1/meters", {"key": METER, "event_type": PROBE_TYPE, "aggregation": "count"})
        self._post("/v1/features", {"key": FEATURE, "name": "Probes", "type": "metered", "meter": METER})
        entitlement = {"feature": FEATURE, "limit": None, "reset": "never"}
        self._post("/v1/plans", {"key": PLAN, "name": "Probes", "currency": "USD", "prices": [],
                                 "entitlements": [entitlement]})  # fmt: skip
        self._post("/v1/customers", {"external_id": PROBE_CUSTOMER, "name": "Probe", "currency": "USD"})
        self._post("/v1/subscriptions", {"customer": PROBE_CUSTOMER, "plan": PLAN})

    def run(self) -> None:
        """Probe until `stop`. Counters show first: usage follows at the interval of inserts."""
        while not self._stop.is_set():
            self._sent += 1
            event = {"id": f"{self.prefix}-{self._sent}", "type": PROBE_TYPE, "subject": PROBE_CUSTOMER}
            answer = self.client.post("/v1/events", json=event)
            if answer.status_code != 202:
                time.sleep(POLL_SECONDS)
                continue
            started = time.monotonic()
            self.counter_ms += self._wait(started, self._counter)
            self.usage_ms += self._wait(started, self._usage)
            self._stop.wait(PAUSE_SECONDS)

    def stop(self) -> None:
        self._stop.set()

    def _wait(self, started: float, read: Any) -> list[float]:
        while time.monotonic() < started + GIVE_UP_SECONDS:
            if read() >= self._sent:
                return [(time.monotonic() - started) * 1000]
            time.sleep(POLL_SECONDS)
        return []

    def _counter(self) -> Decimal:
        answer = self.client.post("/v1/entitlements/check", json={"customer": PROBE_CUSTOMER, "feature": FEATURE})
        return Decimal(answer.json().get("used") or 0)

    def _usage(self) -> Decimal:
        rows = self.client.get("/v1/usage", params={"meter": METER, "customer": PROBE_CUSTOMER}).json()["data"]
        return Decimal(rows[0]["value"]) if rows else Decimal(0)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        answer = self.client.post(path, json=body)
        if answer.status_code != 201:
            raise RuntimeError(f"{path}: {answer.text}")
