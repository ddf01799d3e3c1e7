"""Reservations over several API processes and a flow, all real: what is held becomes used, once and in one step."""

import asyncio
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from infra.settings import Settings
from tests.support.api_process import ApiProcess, api_process
from tests.support.meters import finish_builds
from tests.support.stack import fresh_databases
from tests.support.usage_log import WAIT_SECONDS, RunningFlow, UsageLog, wait_for

ROOT_KEY = "mtr_root-key-of-settlements"
RESERVE = "/v1/entitlements/reserve"
FLOW_CRASHES = ("sink.before_commit", "sink.in_transaction", "sink.settled", "sink.advanced")
API_CRASHES = ("commit.begun", "commit.published")


@pytest.fixture(scope="module")
def log(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageLog]:
    usage_log = UsageLog(fresh_databases(stack), tmp_path_factory.mktemp("flows"))
    yield usage_log
    usage_log.close()


@pytest.fixture(scope="module")
def processes(log: UsageLog) -> Iterator[list[ApiProcess]]:
    """Two APIs."""
    with api_process(log.settings, ROOT_KEY) as first, api_process(log.settings, ROOT_KEY) as second:
        yield [first, second]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant with a customer `acme`, who may use so many tokens, and a customer `other`, who may use as many."""

    key: str
    http: httpx2.Client
    settings: Settings

    def post(self, path: str, body: Any, *, status: int = 201) -> Any:
        response = self.http.post(path, json=body)
        assert response.status_code == status, response.text
        return response.json()

    def reserve(self, quantity: str, *, status: int = 201, **body: Any) -> Any:
        """As soon as the flow counts the period."""
        wanted = {"customer": "acme", "feature": "tokens", "quantity": quantity, **body}
        answers: list[httpx2.Response] = []

        def is_ready() -> bool:
            finish_builds(self.settings)  # as the worker would
            answers.append(self.http.post(RESERVE, json=wanted))
            return answers[-1].json().get("code") != "entitlement.not_ready"

        wait_for(is_ready, "the flow counts the period")
        assert answers[-1].status_code == status, answers[-1].text
        return answers[-1].json()

    def status(self, reservation: Any) -> str:
        return self.http.get(f"/v1/reservations/{reservation['id']}").json()["status"]

    def send(self, event_id: str, tokens: str, **fields: Any) -> dict[str, Any]:
        sent = event(event_id, tokens, **fields)
        self.post("/v1/events", [sent], status=202)
        return sent

    def figures(self, customer: str = "acme", feature: str = "tokens") -> tuple[Decimal, Decimal]:
        """What is used, and what is reserved."""
        found = self.post("/v1/entitlements/check", {"customer": customer, "feature": feature}, status=200)
        return Decimal(found["used"]), Decimal(found["reserved"])

    def wait(self, used: int, reserved: int, *, between: tuple[tuple[int, int], ...] = ()) -> None:
        """Until these are the figures. Meanwhile they are nothing but some of `between`."""

        def reached() -> bool:
            found = self.figures()
            assert found == (used, reserved) or not between or found in between, found
            return found == (used, reserved)

        wait_for(reached, f"used {used}, reserved {reserved}; found {self.figures()}")


def event(event_id: str, tokens: str, **fields: Any) -> dict[str, Any]:
    return {"id": event_id, "type": "llm.request", "subject": "acme", "data": {"tokens": tokens}, **fields}


def new_tenant(process: ApiProcess, settings: Settings, limit: str = "100") -> Tenant:
    with process.client(ROOT_KEY) as operator:
        key = operator.post("/v1/tenants", json={"name": secrets.token_hex(4)}).json()["api_key"]
    tenant = Tenant(key=key, http=process.client(key), settings=settings)
    meter = {"key": "tokens", "event_type": "llm.request", "aggregation": "sum", "value": "$.tokens"}
    tenant.post("/v1/meters", meter)
    tenant.post("/v1/features", {"key": "tokens", "type": "metered", "meter": "tokens"})
    granted = [{"feature": "tokens", "limit": limit, "reset": "never"}]
    tenant.post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [], "entitlements": granted})
    for customer in ("acme", "other"):
        tenant.post("/v1/customers", {"external_id": customer})
        tenant.post("/v1/subscriptions", {"customer": customer, "plan": "pro"})
    return tenant


@pytest.fixture
def tenant(log: UsageLog, processes: list[ApiProcess]) -> Iterator[Tenant]:
    made = new_tenant(processes[0], log.settings)
    yield made
    made.http.close()


@pytest.fixture
def flow(log: UsageLog) -> Iterator[None]:
    """A flow that runs."""
    with log.flow():
        yield


@pytest.mark.usefixtures("flow")
def test_hundreds_who_reserve_at_once_in_several_processes_reach_a_limit_exactly(
    processes: list[ApiProcess], tenant: Tenant
) -> None:
    tenant.reserve("1", ttl_seconds=600)  # the period is counted from here on

    async def ask() -> Counter[tuple[int, str]]:
        headers = {"authorization": f"Bearer {tenant.key}"}
        limits = httpx2.Limits(max_connections=50)
        clients = [httpx2.AsyncClient(base_url=p.url, headers=headers, timeout=30, limits=limits) for p in processes]
        body = {"customer": "acme", "feature": "tokens", "quantity": "0.5", "ttl_seconds": 600}
        answers = await asyncio.gather(*(clients[n % 2].post(RESERVE, json=body) for n in range(400)))
        for client in clients:
            await client.aclose()
        return Counter((answer.status_code, answer.json().get("code", "")) for answer in answers)

    found = asyncio.run(ask())
    assert found == {(201, ""): 198, (409, "entitlement.limit_exceeded"): 202}
    assert tenant.figures() == (0, 100)
    with processes[1].client(tenant.key) as client:
        body = {"customer": "acme", "feature": "tokens"}
        assert client.post("/v1/entitlements/check", json=body).json()["remaining"] == "0"


@pytest.mark.usefixtures("flow")
def test_an_event_turns_what_is_held_into_what_is_used_in_one_step_and_once(tenant: Tenant) -> None:
    held = tenant.reserve("10")
    tenant.send("e1", "7", reservation=held["id"])
    tenant.wait(7, 0, between=((0, 10),))
    found = tenant.http.get(f"/v1/reservations/{held['id']}").json()
    assert (found["status"], found["settled_by"]) == ("settled", {"source": "api", "id": "e1"})
    assert tenant.post(f"/v1/reservations/{held['id']}/commit", {}, status=200)["status"] == "settled"
    tenant.send("e1", "7", reservation=held["id"])  # a copy
    tenant.send("e2", "3", reservation=held["id"])  # further usage: nothing is held for it
    tenant.wait(10, 0, between=((7, 0),))
    tenant.post("/v1/events/void", {"id": "e1"}, status=200)
    tenant.wait(3, 0, between=((10, 0),))


def test_two_flows_settle_and_count_for_the_same_customers_at_once(log: UsageLog, tenant: Tenant) -> None:
    meter = {"key": "users", "event_type": "llm.request", "aggregation": "unique_count", "value": "$.user"}
    tenant.post("/v1/meters", meter)
    tenant.post("/v1/features", {"key": "users", "type": "metered", "meter": "users"})
    granted = [{"feature": "users", "limit": "100", "reset": "never"}]
    tenant.post("/v1/plans", {"key": "users", "currency": "USD", "prices": [], "entitlements": granted})
    for customer in ("acme", "other"):
        tenant.post("/v1/subscriptions", {"customer": customer, "plan": "users"})
    flows = [RunningFlow(log.settings.model_copy(update={"flow_shards": 2, "flow_shard": n})) for n in range(2)]

    def are(acme: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        """Used and reserved tokens, and users, of each."""
        for flow in flows:
            flow.raise_failure()  # of a deadlock, too
        found = [(*tenant.figures(each), tenant.figures(each, "users")[0]) for each in ("acme", "other")]
        return found == [acme, other]

    try:
        for customer in ("acme", "other"):
            tenant.reserve("1", customer=customer, ttl_seconds=600)
            tenant.reserve("1", customer=customer, feature="users", ttl_seconds=600)
        sent: list[dict[str, Any]] = []
        for n in range(60):
            customer = ("acme", "other")[n % 2]
            wanted = {"customer": customer, "feature": "tokens", "quantity": "1", "ttl_seconds": 600}
            held = tenant.post(RESERVE, wanted)
            data = {"tokens": 1, "user": n // 2 % 7}
            sent.append(event(f"two-{n}", "1", subject=customer, data=data, reservation=held["id"]))
        for n in range(0, 60, 4):  # each request is two batches or more, of both flows
            tenant.post("/v1/events", sent[n : n + 4], status=202)
        wait_for(lambda: are((30, 1, 7), (30, 1, 7)), "both flows have settled and counted everything")
        for gone in (e for e in sent if e["data"]["user"] in (0, 1) and e["subject"] == "acme"):
            tenant.post("/v1/events/void", {"id": gone["id"]}, status=200)
        left = sum(e["data"]["user"] > 1 for e in sent[::2])
        wait_for(lambda: are((left, 1, 5), (30, 1, 7)), "what was voided is taken off")
    finally:
        for flow in flows:
            flow.stop()


@pytest.mark.usefixtures("flow")
def test_only_a_counted_event_of_the_same_customer_settles(processes: list[ApiProcess], tenant: Tenant) -> None:
    stranger = new_tenant(processes[1], tenant.settings)
    held = tenant.reserve("10")
    stranger.send("a", "1", reservation=held["id"])
    tenant.send("b", "1", reservation=held["id"], subject="other")
    tenant.send("c", "1", reservation=held["id"], type="unmatched")
    tenant.send("d", "much", reservation=held["id"])
    tenant.send("e", "1", reservation="rsv_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f")
    tenant.send("f", "1", reservation="'\u0000")
    tenant.send("g", "1", reservation=7)
    tenant.wait(3, 10)
    wait_for(lambda: stranger.figures()[0] == 1 and tenant.figures("other")[0] == 1, "the others' events count")
    assert tenant.status(held) == "held"
    tenant.send("h", "2", reservation=held["id"], time="2020-01-01T00:00:00Z")  # of a time that no period has
    wait_for(lambda: tenant.status(held) == "settled", "a late event settles too")
    assert tenant.figures() == (3, 0)
    stranger.http.close()


@pytest.mark.usefixtures("flow")
def test_a_commit_sends_its_event_once(tenant: Tenant) -> None:
    held = tenant.reserve("10")
    path, sent = f"/v1/reservations/{held['id']}/commit", event("c1", "4")
    first = tenant.post(path, {"event": sent}, status=200)
    assert (first["status"] in ("committed", "settled"), first["commit_event"]) == (True, {"source": "api", "id": "c1"})
    for _ in range(2):
        assert tenant.post(path, {"event": {**sent, "reservation": held["id"]}}, status=200)["id"] == held["id"]
    tenant.wait(4, 0, between=((0, 10),))
    assert tenant.status(held) == "settled"
    assert tenant.post(path, {"event": sent}, status=200)["settled_by"] == {"source": "api", "id": "c1"}
    assert tenant.post(path, {"event": event("c2", "4")}, status=409)["code"] == "reservation.already_committed"
    tenant.post(f"/v1/reservations/{held['id']}/release", {}, status=409)
    other = tenant.reserve("1")
    path = f"/v1/reservations/{other['id']}/commit"
    for wrong, code in (
        ({"subject": "other"}, "reservation.other_customer"),
        ({"subject": "nobody"}, "reservation.other_customer"),
        ({"reservation": held["id"]}, "reservation.other_reservation"),
        ({"type": ""}, "event.invalid_field"),
        ({"time": "never"}, "event.invalid_time"),
        ({"data": []}, "event.invalid_data"),
    ):
        assert tenant.post(path, {"event": {**event("c3", "1"), **wrong}}, status=422)["code"] == code
    secret = tenant.post("/v1/api_keys", {"name": "checker", "role": "check"})["secret"]
    refused = tenant.http.post(path, json={"event": sent}, headers={"authorization": f"Bearer {secret}"})
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")
    assert (tenant.status(other), tenant.figures()) == ("held", (4, 1))


@pytest.mark.usefixtures("flow")
def test_an_event_after_the_expiry_is_ordinary_usage(tenant: Tenant) -> None:
    held = tenant.reserve("10", ttl_seconds=1)
    wait_for(lambda: tenant.status(held) == "expired", "it expires")
    assert tenant.figures() == (0, 0)
    tenant.send("x", "5", reservation=held["id"])
    tenant.wait(5, 0, between=((0, 0),))
    assert tenant.status(held) == "expired"


@pytest.mark.usefixtures("flow")
def test_a_commit_without_an_event_holds_until_the_flow_has_passed_it(tenant: Tenant) -> None:
    held = tenant.reserve("10")
    tenant.send("o", "6")
    assert tenant.post(f"/v1/reservations/{held['id']}/commit", {}, status=200)["status"] == "committed"
    tenant.wait(6, 0, between=((0, 10), (6, 10)))
    tenant.reserve("94")  # writes down that it is settled
    assert tenant.status(held) == "settled"


def test_no_kill_of_the_api_in_a_commit_loses_or_doubles_anything(log: UsageLog, processes: list[ApiProcess]) -> None:
    tenant = new_tenant(processes[0], log.settings)
    with log.flow():
        held = [tenant.reserve("10", ttl_seconds=600) for _ in API_CRASHES]
    for number, (point, each) in enumerate(zip(API_CRASHES, held, strict=True)):
        body = {"event": event(f"k{number}", "1")}
        path = f"/v1/reservations/{each['id']}/commit"
        with api_process(log.settings, ROOT_KEY, crash_at=point) as doomed, doomed.client(tenant.key) as client:
            with pytest.raises(httpx2.TransportError):
                client.post(path, json=body)
            assert doomed.process.wait(WAIT_SECONDS) == -signal.SIGKILL
        assert tenant.status(each) == "held"
        if point == "commit.published":  # before, its event has not been sent
            refused = tenant.post(f"/v1/reservations/{each['id']}/release", {}, status=409)
            assert (refused["code"], tenant.status(each)) == ("reservation.committed", "held")
        assert tenant.post(path, body, status=200)["status"] == "committed"
    with log.flow():
        tenant.wait(len(held), 0)
    tenant.http.close()


def test_no_kill_of_the_flow_shows_more_than_the_limit_or_loses_usage(
    log: UsageLog, processes: list[ApiProcess]
) -> None:
    tenant = new_tenant(processes[0], log.settings, limit="40")
    with log.flow():
        held = [tenant.reserve("10", ttl_seconds=600) for _ in FLOW_CRASHES]
    tenant.reserve("0.000000000001", status=409)
    for number, (point, each) in enumerate(zip(FLOW_CRASHES, held, strict=True)):
        tenant.send(f"f{number}", "10", reservation=each["id"])
        crashing = log.start_flow(crash_at=point)
        assert crashing.wait(WAIT_SECONDS) == -signal.SIGKILL, f"{point} was not reached: {crashing.logged()}"
        assert sum(tenant.figures()) == 40, point
        tenant.reserve("0.000000000001", status=409)
    with log.flow() as running:
        log.wait_stored(running)
    assert tenant.figures() == (40, 0)
    assert [tenant.status(each) for each in held] == ["settled"] * len(held)
    tenant.http.close()
