"""Stores that hang: their processes are stopped, so they keep connections open and answer nothing."""

import asyncio
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
from fastapi import FastAPI

from infra.clickhouse.client import ClickHouseError
from infra.clickhouse.usage_query import Span
from infra.intake.decode import Form
from infra.kafka.topics import ensure_topics
from infra.settings import Settings
from ingestion_api.auth import KeyCache
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.stored import open_stored_usage
from ingestion_api.ingest.keyed import KeyedAnswers, request_of
from schemas.errors import Retry
from tests.infra.local.own_stack import OwnStack, wait_for
from tests.support.api import ROOT_KEY, Api, running_api
from tests.support.usage_log import meter


@pytest.fixture(scope="module")
def own(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStack]:
    """PostgreSQL and ClickHouse of this module's own; the other servers are the run's."""
    shared = {
        "METERLINE_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "METERLINE_TEMPORAL_ADDRESS": stack.temporal_address,
        "METERLINE_POSTGRES_DSN": "",
        "METERLINE_CLICKHOUSE_URL": "",
    }
    stack_of_own = OwnStack(tmp_path_factory.mktemp("stopped") / "stack", **shared)
    yield stack_of_own
    stack_of_own.stop()


@pytest.fixture(scope="module")
def patient_api(own: OwnStack, stack: Settings) -> Iterator[Api]:
    """An API that waits a second for an answer; its key is known, so no request stops at that."""
    settings = own.settings().model_copy(
        update={
            "api_store_timeout_seconds": 1,
            "api_key_cache_seconds": 3600,
            "kafka_bootstrap": stack.kafka_bootstrap,
            "balances_topic": "stopped-stores.balances",  # what other tests' flows count is of other databases
        }
    )
    with running_api(settings) as api:
        api.get("/v1/events")
        yield api


@contextmanager
def stopped(own: OwnStack, name: str) -> Generator[None]:
    """Stop a server and all its children for the length of a block."""
    server = own.children()[name]
    server.suspend()  # first: it could have a child more by the time the others are known
    wait_for(lambda: server.status() == psutil.STATUS_STOPPED, f"{name} stands")
    processes = [server, *server.children(recursive=True)]
    for process in processes[1:]:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "path"), [("clickhouse", "/v1/events"), ("postgres", "/v1/meters")])
def test_a_read_of_a_store_that_hangs_says_so_soon_and_works_again_after(
    own: OwnStack, patient_api: Api, name: str, path: str
) -> None:
    with stopped(own, name):
        answer = patient_api.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "store.unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.elapsed.total_seconds() < 20
    patient_api.get(path)


def test_a_server_that_hangs_amid_a_transaction_is_given_up(own: OwnStack, patient_api: Api) -> None:
    with (
        pytest.raises(Exception, match=r"store\.unavailable"),
        patient_api.database.transaction() as connection,
        stopped(own, "postgres"),
    ):
        connection.execute("SELECT 1")
    with patient_api.database.transaction() as connection:
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


@pytest.mark.timeout(120)
def test_events_under_an_idempotency_key_are_not_even_tried_while_postgresql_hangs(
    own: OwnStack, patient_api: Api
) -> None:
    answers = KeyedAnswers(patient_api.database, clock=lambda: datetime.now(UTC))
    with patient_api.database.transaction() as connection:
        row = connection.execute("SELECT id FROM tenants").fetchone()
    assert row is not None
    request = request_of(b"k", row["id"], Form.JSON, b"{}")
    tried: list[str] = []

    async def attempt() -> tuple[int, bytes]:
        tried.append("once")
        if len(tried) == 1:
            raise Retry("broker.unavailable", "The broker is away.")
        return 202, b"{}"

    with pytest.raises(Retry, match=r"store\.unavailable"), stopped(own, "postgres"):
        asyncio.run(answers.once(request, attempt))
    assert not tried
    with pytest.raises(Retry, match=r"broker\.unavailable"):
        asyncio.run(answers.once(request, attempt))
    assert asyncio.run(answers.once(request, attempt)) == (202, b"{}", False), "a 503 is not kept"
    assert asyncio.run(answers.once(request, attempt)) == (202, b"{}", True)


def _make_features(api: Api) -> None:
    """A customer with one metered feature that is closed, one open, one soft, one unlimited, and one that is boolean.
    No flow runs: what is used of them must be asked of ClickHouse."""
    if api.http.get("/v1/features/closed").status_code == 200:
        return
    api.post("/v1/meters", {"key": "tokens", "event_type": "t", "aggregation": "sum", "value": "$.n"})
    for key in ("closed", "open", "soft", "unlimited"):
        on_unknown = "open" if key == "open" else "closed"
        api.post("/v1/features", {"key": key, "type": "metered", "meter": "tokens", "on_unknown": on_unknown})
    api.post("/v1/features", {"key": "sso", "type": "boolean"})
    entitlements = [
        {"feature": "closed", "limit": "10"},
        {"feature": "open", "limit": "10"},
        {"feature": "soft", "limit": "10", "enforcement": "soft"},
        {"feature": "unlimited", "limit": None},
        {"feature": "sso"},
    ]
    api.post("/v1/plans", {"key": "degraded", "currency": "USD", "prices": [], "entitlements": entitlements})
    api.post("/v1/customers", {"external_id": "acme"})
    api.post("/v1/subscriptions", {"customer": "acme", "plan": "degraded"})


FEATURES = ("closed", "open", "soft", "unlimited", "sso")
DECIDED = [
    (False, "degraded"), (True, "degraded"), (True, "degraded"), (True, "unlimited"), (True, "unlimited"),
]  # fmt: skip


def _check(api: Api, *features: str, customer: str = "acme") -> Any:
    checks = [{"customer": customer, "feature": feature, "quantity": "1"} for feature in features]
    return api.post("/v1/entitlements/check", {"checks": checks}, status=200)["data"]


def _decided(answers: Any) -> list[tuple[bool, str]]:
    return [(each["allowed"], each["reason"]) for each in answers]


@pytest.mark.timeout(120)
def test_while_usage_is_not_known_each_feature_decides_for_itself(own: OwnStack, patient_api: Api) -> None:
    api = patient_api
    _make_features(api)
    assert {reason for _, reason in _decided(_check(api, *FEATURES))} == {"within_limit", "unlimited"}
    with stopped(own, "clickhouse"):
        answers = _check(api, *FEATURES)
        evaluated = api.post("/ofrep/v1/evaluate/flags/open", {"context": {"targetingKey": "acme"}}, status=200)
        reserve = {"customer": "acme", "feature": "open", "quantity": "1"}
        assert api.http.post("/v1/entitlements/reserve", json=reserve).status_code == 503
    assert _decided(answers) == DECIDED
    assert [each["limit"] for each in answers] == ["10", "10", "10", None, None]
    assert {(each["used"], each["remaining"], each["as_of"]) for each in answers[:3]} == {(None, None, None)}
    assert (evaluated["value"], evaluated["reason"]) == (True, "UNKNOWN")
    assert _decided(_check(api, "closed")) == [(True, "within_limit")]


@pytest.mark.timeout(120)
def test_a_check_does_not_wait_for_clickhouse_as_long_as_other_reads_do(own: OwnStack, patient_api: Api) -> None:
    patience = {"check_store_timeout_seconds": 1, "api_store_timeout_seconds": 100}
    settings = patient_api.settings.model_copy(update=patience)
    span = Span(customer_no=1, meter_no=1, start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 2, 1, tzinfo=UTC))
    with closing(open_stored_usage(settings)) as stored, stopped(own, "clickhouse"):
        started = time.monotonic()
        with pytest.raises(ClickHouseError):
            stored.totals(tenant_no=1, meters={1: meter(1)}, spans=[span])
        assert time.monotonic() - started < 60


@pytest.mark.timeout(120)
def test_a_key_that_could_not_be_renewed_is_not_asked_for_again_at_once(own: OwnStack, patient_api: Api) -> None:
    keys = KeyCache(patient_api.database, fresh_seconds=4)
    principal = keys.lookup(ROOT_KEY)
    with stopped(own, "postgres"):
        wait_for(lambda: keys.cached(ROOT_KEY) is None, "it wants to be renewed")
        assert keys.lookup(ROOT_KEY) == principal, "after all the patience of the pool, which is more than 4 seconds"
        assert keys.cached(ROOT_KEY) == principal


@pytest.mark.timeout(120)
def test_while_postgresql_hangs_checks_are_answered_from_memory_or_by_the_feature(
    own: OwnStack, patient_api: Api
) -> None:
    api = patient_api
    _make_features(api)
    app = api.http.app
    assert isinstance(app, FastAPI)
    replica: Replica = app.state.context.replica
    ensure_topics(api.settings)
    replica.start()
    try:
        wait_for(lambda: replica.is_live, "the replica is live")
        with stopped(own, "postgres"):
            assert _decided(_check(api, *FEATURES)) == DECIDED
            wait_for(lambda: replica.is_alone, "the replica has noticed, though its connections are open")
            assert _decided(_check(api, "closed", "open", customer="nobody")) == [
                (False, "degraded"),
                (True, "degraded"),
            ]
            body = {"customer": "acme", "feature": "none such"}
            refused = api.http.post("/v1/entitlements/check", json=body)
            assert (refused.status_code, refused.json()["code"]) == (503, "store.unavailable")
            reserve = {"customer": "acme", "feature": "open", "quantity": "1"}
            assert api.http.post("/v1/entitlements/reserve", json=reserve).status_code == 503
        answer = api.http.patch("/v1/features/closed", json={"on_unknown": "open", "name": "Open now"})
        assert (answer.status_code, answer.json()["on_unknown"], answer.json()["name"]) == (200, "open", "Open now")
        wait_for(lambda: _known(replica, api)["on_unknown"] == "open", "the replica has followed")
        api.http.patch("/v1/features/closed", json={"on_unknown": "closed"})
    finally:
        replica.close()


def _known(replica: Replica, api: Api) -> Any:
    with api.database.transaction() as connection:
        row = connection.execute("SELECT tenant_id FROM features WHERE key = 'closed'").fetchone()
    assert row is not None
    question = replica.book.question(row["tenant_id"], Ask("acme", "closed", None))
    assert question is not None
    return question.feature
