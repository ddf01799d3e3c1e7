"""The stream of entitlements of running services: events go in by HTTP, flows count them."""

import json
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import httpx2
import pytest

from ingestion_api.entitlements.ring import ChangeRing
from tests.support.services import Services

WAIT_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Sent:
    name: str
    place: str
    data: Any


class Follower:
    """Reads a stream in a thread."""

    def __init__(self, response: httpx2.Response) -> None:
        self._queue: Queue[Sent] = Queue()
        self._thread = threading.Thread(target=self._read, args=(response,), daemon=True)
        self._thread.start()

    def _read(self, response: httpx2.Response) -> None:
        fields: dict[str, str] = {}
        place = ""
        try:
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    place = fields.get("id", place)
                    self._queue.put(Sent(fields["event"], place, json.loads(fields["data"])))
                    fields = {}
        except httpx2.HTTPError:
            return

    def next(self, name: str) -> Sent:
        """The next event of this name; others are passed by."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            sent = self._queue.get(timeout=max(deadline - time.monotonic(), 0.01))
            if sent.name == name:
                return sent

    def until(self, **wanted: str) -> Sent:
        """The next entitlement with these values."""
        while True:
            sent = self.next("entitlement")
            if all(sent.data[name] == value for name, value in wanted.items()):
                return sent

    def until_synced(self) -> list[Sent]:
        found: list[Sent] = []
        while (sent := self._queue.get(timeout=WAIT_SECONDS)).name != "synced":
            found.append(sent)
        return [*found, sent]

    def is_over(self) -> bool:
        self._thread.join(WAIT_SECONDS)
        return not self._thread.is_alive()


@dataclass(frozen=True, slots=True)
class Tenant:
    http: httpx2.Client

    def post(self, path: str, body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()

    def send(self, subject: str, n: int) -> None:
        self.post(
            "/v1/events", {"id": uuid.uuid4().hex, "source": "t", "type": "t", "subject": subject, "data": {"n": n}}
        )

    @contextmanager
    def follow(self, last_event_id: str | None = None, **params: str) -> Generator[Follower]:
        headers = {} if last_event_id is None else {"last-event-id": last_event_id}
        with self.http.stream("GET", "/v1/entitlements/stream", params=params, headers=headers, timeout=60) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Follower(response)


@pytest.fixture
def tenant(services: Services) -> Iterator[Tenant]:
    """acme and globex, who may use 10 tokens an hour and sso."""
    with closing(services.client(services.new_tenant_key())) as http:
        made = Tenant(http)
        made.post("/v1/meters", {"key": "tokens", "event_type": "t", "aggregation": "sum", "value": "$.n"})
        made.post("/v1/features", {"key": "tokens", "type": "metered", "meter": "tokens"})
        made.post("/v1/features", {"key": "sso", "type": "boolean"})
        granted = [{"feature": "tokens", "limit": "10", "reset": "never"}, {"feature": "sso"}]
        made.post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [], "entitlements": granted})
        for customer in ("acme", "globex"):
            made.post("/v1/customers", {"external_id": customer})
            made.post("/v1/subscriptions", {"customer": customer, "plan": "pro"})
        yield made


def test_all_that_is_comes_first_and_then_what_changes(tenant: Tenant) -> None:
    with tenant.follow() as stream:
        *present, synced = stream.until_synced()
        states = {(sent.data["customer"], sent.data["feature"]): sent.data for sent in present}
        assert set(states) == {(c, f) for c in ("acme", "globex") for f in ("tokens", "sso")}
        assert states["acme", "tokens"]["limit"] == "10"
        assert synced.data["resumed"] is False
        assert [sent.place for sent in present] == ["", "", "", synced.place], "who breaks off begins anew"
        tenant.send("acme", 4)
        assert stream.until(customer="acme", feature="tokens", used="4").data["remaining"] == "6"
        tenant.send("acme", 6)
        assert stream.until(customer="acme", used="10").data["allowed"] is False
        as_of = stream.next("progress").data["as_of"]
        while stream.next("progress").data["as_of"] <= as_of:
            pass


def test_a_change_of_terms_is_sent_too(tenant: Tenant) -> None:
    with tenant.follow(customer="acme", feature="sso") as stream:
        [present, _] = stream.until_synced()
        assert (present.data["customer"], present.data["feature"]) == ("acme", "sso")
        [subscription] = tenant.http.get("/v1/subscriptions", params={"customer": "acme"}).json()["data"]
        tenant.post(f"/v1/subscriptions/{subscription['id']}/cancel", {"at": "now"})
        assert stream.until(customer="acme", reason="subscription_inactive").data["allowed"] is False


def test_who_comes_back_gets_what_was_missed_and_no_more(tenant: Tenant) -> None:
    with tenant.follow() as stream:
        place = stream.until_synced()[-1].place
    tenant.send("globex", 3)
    with tenant.follow(customer="globex", feature="tokens") as other:
        other.until(used="3")
    with tenant.follow(place) as stream:
        *missed, synced = stream.until_synced()
        assert synced.data["resumed"] is True
        last = {(sent.data["customer"], sent.data["feature"]): sent.data for sent in missed}
        assert {feature for _, feature in last} <= {"tokens"}  # acme's counter may have begun meanwhile
        if last.get(("globex", "tokens"), {}).get("used") != "3":  # the other saw it before this process was told
            stream.until(customer="globex", feature="tokens", used="3")
    with tenant.follow("another-process-1") as stream:
        *present, synced = stream.until_synced()
        assert (len(present), synced.data["resumed"]) == (4, False)


def test_the_nearest_to_their_limit_come_first(tenant: Tenant) -> None:
    with tenant.follow() as stream:
        stream.until_synced()
        tenant.send("acme", 4)
        tenant.send("globex", 9)
        seen: set[str] = set()
        while seen != {"4", "9"}:
            seen |= {stream.next("entitlement").data["used"]} & {"4", "9"}

    def top(**params: str) -> list[tuple[str, float]]:
        answer = tenant.http.get("/v1/entitlements/top", params={"feature": "tokens", **params})
        assert answer.status_code == 200, answer.text
        return [(each["customer"], each["used_percent"]) for each in answer.json()["data"]]

    assert top() == [("globex", 90), ("acme", 40)]
    assert top(limit="1") == [("globex", 90)]
    assert top(min_percent="90") == [("globex", 90)]
    refused = tenant.http.get("/v1/entitlements/top", params={"feature": "sso"})
    assert (refused.status_code, refused.json()["code"]) == (422, "feature.not_metered")


def test_a_revoked_key_ends_its_stream(tenant: Tenant, services: Services) -> None:
    made = tenant.post("/v1/api_keys", {"name": "follower", "role": "check"})
    with closing(services.client(made["secret"])) as http, Tenant(http).follow() as stream:
        stream.until_synced()
        tenant.post(f"/v1/api_keys/{made['id']}/revoke", {})
        assert stream.is_over()


def test_another_tenants_changes_are_never_seen(tenant: Tenant, services: Services) -> None:
    with closing(services.client(services.new_tenant_key())) as http, Tenant(http).follow() as stream:
        assert [sent.name for sent in stream.until_synced()] == ["synced"]
        tenant.send("acme", 1)
        with tenant.follow(customer="acme", feature="tokens") as own:
            own.until(used="1")
        stream.next("progress")
        with pytest.raises(Empty):
            stream._queue.get_nowait()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("params", "code"), [({"customer": "x"}, "customer.not_found"), ({"feature": "x"}, "feature.not_found")]
)
def test_what_is_not_there_is_not_followed(tenant: Tenant, params: dict[str, str], code: str) -> None:
    answer = tenant.http.get("/v1/entitlements/stream", params=params)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_ring_says_when_it_does_not_know() -> None:
    ring = ChangeRing(size=3)
    ring.add([("a", "x"), ("b", "x")])
    assert ring.since(0) == (2, {("a", "x"): None, ("b", "x"): None})
    ring.add([("a", "x"), ("c", "x")])
    assert ring.since(0) is None
    assert ring.since(2) == (4, {("a", "x"): None, ("c", "x"): None})
    assert ring.since(5) is None
    assert ring.number_of(ring.place(7)) == 7
    assert [ring.number_of(place) for place in (None, "", "x-1", ring.place(1) + "x", ChangeRing().place(1))] == [
        None
    ] * 5


def test_that_a_reservation_has_expired_is_told(tenant: Tenant) -> None:
    asked = {"customer": "acme", "feature": "tokens", "quantity": "9"}
    made = tenant.post("/v1/entitlements/reserve", asked)  # by then the period is counted
    tenant.post(f"/v1/reservations/{made['id']}/release", {})
    with tenant.follow(customer="acme", feature="tokens") as follower:
        follower.until_synced()
        tenant.post("/v1/entitlements/reserve", {**asked, "ttl_seconds": 4})
        assert follower.until(reserved="9").data["remaining"] == "1"
        assert follower.until(reserved="0").data["remaining"] == "10"
