"""A few calls of the HTTP API, as any customer of it would make them."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx2

from infra.cli.demo.contract import CUSTOMERS, METERS
from schemas.errors import Retry
from schemas.instants import format_instant, parse_instant

POLL_SECONDS = 0.2
PAGE = 100


class Api:
    """The API at `url`, seen with one key."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST and the answer's body. Raises RuntimeError with the problem that the API answered."""
        return self._answer(self._client.post(path, json=body))

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """GET and the answer's body. Raises RuntimeError with the problem that the API answered."""
        return self._answer(self._client.get(path, params=query))

    def _answer(self, response: httpx2.Response) -> dict[str, Any]:
        if response.is_error:
            raise RuntimeError(f"{response.request.method} {response.request.url}: {response.text}")
        return response.json()

    def checks(self) -> list[dict[str, Any]]:
        """The entitlement state of every customer and feature, in the order of the contract."""
        wanted = [{"customer": customer, "feature": feature} for customer in CUSTOMERS for feature in METERS]
        return self.post("/v1/entitlements/check", {"checks": wanted})["data"]

    def usage_by_model(self, meter: str, customer: str, *, start: datetime, end: datetime) -> dict[str, Any]:
        """One customer's usage of one meter, whole range, by model."""
        return self.get(
            "/v1/usage",
            **{"meter": meter, "customer": customer, "from": format_instant(start), "to": format_instant(end)},
            window="none",
            group_by="model",
        )

    def invoices(self, customer: str) -> list[dict[str, Any]]:
        """All invoices of a customer with their lines, oldest first."""
        page = self.get("/v1/invoices", customer=customer, limit=str(PAGE))["data"]
        return sorted((self.get(f"/v1/invoices/{row['id']}") for row in page), key=lambda invoice: invoice["number"])


def wait_until(what: str, holds: Callable[[], bool], *, seconds: int) -> None:
    """Poll until `holds()`; raises Retry, saying what did not come, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Retry("demo.timeout", f"waited {seconds} s in vain for: {what}")
        time.sleep(POLL_SECONDS)


def usage_complete_until(api: Api, *, start: datetime, end: datetime) -> datetime:
    """Every event acknowledged before this instant is in the usage that the API answers now."""
    customer = next(iter(CUSTOMERS))
    return parse_instant(api.usage_by_model(METERS[0], customer, start=start, end=end)["as_of"])
