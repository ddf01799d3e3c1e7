"""Stores that hang: their processes are stopped, so they keep connections open and answer nothing."""

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from infra.intake.decode import Form
from infra.settings import Settings
from ingestion_api.ingest.keyed import KeyedAnswers, request_of
from schemas.errors import Retry
from tests.infra.local.own_stack import OwnStack
from tests.support.api import Api, running_api


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
def patient_api(own: OwnStack) -> Iterator[Api]:
    """An API that waits a second for an answer; its key is known, so no request stops at that."""
    settings = own.settings().model_copy(update={"api_store_timeout_seconds": 1, "api_key_cache_seconds": 3600})
    with running_api(settings) as api:
        api.get("/v1/events")
        yield api


@contextmanager
def stopped(own: OwnStack, name: str) -> Generator[None]:
    """Stop a server and all its children for the length of a block."""
    server = own.children()[name]
    processes = [server, *server.children(recursive=True)]
    for process in processes:
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
