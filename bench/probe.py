"""Freshness: how long after a 202 an event shows in usage and in the counter of an entitlement."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2

PROBE_CUSTOMER = "probe"
PROBE_TYPE = "probe.event"
METER, FEATURE, PLAN = "probes", "probes", "probes"
ALL_TIME = {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}  # what is not given is looked up first
SEND_SECONDS = 0.25
#: Between two looks. A look at usage costs a hundredth of a second of CPU: more of them would slow what they watch.
COUNTER_LOOK_SECONDS, USAGE_LOOK_SECONDS = 0.05, 0.1
RETRY_SECONDS = 0.1
GIVE_UP_SECONDS = 30


@dataclass(slots=True)
class Probe:
    """Sends single events of a customer of its own, and looks how many of them show: the first so many that were sent.

    An event has shown when an answer with it is there. So the times hold what a look takes, and the wait for it.
    """

    client: httpx2.Client
    prefix: str
    usage_ms: list[float] = field(default_factory=list[float])
    counter_ms: list[float] = field(default_factory=list[float])
    _answered: list[float] = field(default_factory=list[float])  # when each had its 202
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
        """Send and look until `stop`, and then look until everything shows."""
        looks = [
            threading.Thread(target=self._look, args=(self._counter, self.counter_ms, COUNTER_LOOK_SECONDS)),
            threading.Thread(target=self._look, args=(self._usage, self.usage_ms, USAGE_LOOK_SECONDS)),
        ]
        for look in looks:
            look.start()
        while not self._stop.is_set():
            event = {"id": f"{self.prefix}-{len(self._answered)}", "type": PROBE_TYPE, "subject": PROBE_CUSTOMER}
            if self.client.post("/v1/events", json=event).status_code == 202:
                self._answered.append(time.monotonic())
                self._stop.wait(SEND_SECONDS)
            else:
                self._stop.wait(RETRY_SECONDS)
        for look in looks:
            look.join()

    def stop(self) -> None:
        self._stop.set()

    def _look(self, read: Callable[[], Decimal], found_ms: list[float], pause_seconds: float) -> None:
        """Append to `found_ms` how long each event took to show, until all do or GIVE_UP_SECONDS after `stop`."""
        give_up_at = None
        while not self._stop.is_set() or len(found_ms) < len(self._answered):
            if self._stop.is_set():
                give_up_at = give_up_at or time.monotonic() + GIVE_UP_SECONDS
                if time.monotonic() > give_up_at:
                    return
            shown, now = int(read()), time.monotonic()
            found_ms += [(now - answered) * 1000 for answered in self._answered[len(found_ms) : shown]]
            time.sleep(pause_seconds)

    def _counter(self) -> Decimal:
        answer = self.client.post("/v1/entitlements/check", json={"customer": PROBE_CUSTOMER, "feature": FEATURE})
        return Decimal(answer.json().get("used") or 0)

    def _usage(self) -> Decimal:
        params = {"meter": METER, "customer": PROBE_CUSTOMER, **ALL_TIME}
        rows = self.client.get("/v1/usage", params=params).json()["data"]
        return Decimal(rows[0]["value"]) if rows else Decimal(0)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        answer = self.client.post(path, json=body)
        if answer.status_code != 201:
            raise RuntimeError(f"{path}: {answer.text}")
