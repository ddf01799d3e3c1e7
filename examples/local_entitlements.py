"""A copy of entitlements inside your own process: it follows the stream, and a check is a look into a dictionary.

Nothing but the standard library, so that you can take the class as it is. Run it against a running `meterline dev`:
`METERLINE_URL=http://127.0.0.1:8080 METERLINE_API_KEY=mtr_… python examples/local_entitlements.py acme tokens`
"""

import json
import os
import sys
import threading
import timeit
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

QUIET_SECONDS = 30  # the stream says something every second; one that says nothing for so long is broken
AGAIN_SECONDS = 1.0


class LocalEntitlements:
    """Follows the stream in a thread, until `close`. After a broken connection it goes on from its last event."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = urlsplit(url)
        self._api_key = api_key
        self._states: dict[tuple[str, str], dict[str, Any]] = {}
        self._synced = threading.Event()
        self._closed = threading.Event()
        self._last_event_id = ""
        self.as_of: str | None = None  # every event acknowledged before is in the answers
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the first full copy; whether it came."""
        return self._synced.wait(seconds)

    def may(self, customer: str, feature: str) -> bool:
        """Whether the customer, by external_id, may use the feature now. False for whom nothing is known of."""
        state = self._states.get((customer, feature))
        return state is not None and state["allowed"]

    def state(self, customer: str, feature: str) -> dict[str, Any] | None:
        """All that a check would answer."""
        return self._states.get((customer, feature))

    def close(self) -> None:
        """Follow no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (OSError, HTTPException, ValueError) as error:
                print(f"stream broken, connecting again: {error}", file=sys.stderr)
            self._closed.wait(AGAIN_SECONDS)

    def _follow(self) -> None:
        connect = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = connect(self._url.hostname or "", self._url.port, timeout=QUIET_SECONDS)
        headers = {"Authorization": f"Bearer {self._api_key}"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        try:
            connection.request("GET", "/v1/entitlements/stream", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise HTTPException(f"{response.status}: {response.read(1000).decode(errors='replace')}")
            fields: dict[str, str] = {}
            while not self._closed.is_set() and (line := response.readline()):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif fields:
                    self._take(fields)
                    fields = {}
        finally:
            connection.close()

    def _take(self, fields: dict[str, str]) -> None:
        event, data = fields.get("event"), json.loads(fields.get("data", "null"))
        if event == "entitlement":
            self._states[data["customer"], data["feature"]] = data
        elif event in ("synced", "progress"):
            self.as_of = data["as_of"]
            if event == "synced":
                self._synced.set()
        self._last_event_id = fields.get("id", self._last_event_id)


def main() -> None:
    """Print what a customer has of a feature, and what a look costs."""
    customer, feature = sys.argv[1:3]
    local = LocalEntitlements(os.environ["METERLINE_URL"], os.environ["METERLINE_API_KEY"])
    if not local.wait(30):
        raise SystemExit("no copy within 30 s; does the key have the role check or read? Try: meterline doctor")
    state = local.state(customer, feature)
    if state is None:
        print(f"{customer} is entitled to no {feature}")
    else:
        print(f"{customer} {feature}: allowed={state['allowed']} used={state['used']} limit={state['limit']}")
    looks = 200_000
    seconds = timeit.timeit(lambda: local.may(customer, feature), number=looks)
    print(f"one look: {seconds / looks * 1e9:.0f} ns")
    local.close()


if __name__ == "__main__":
    main()
