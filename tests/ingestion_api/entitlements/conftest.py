"""A process whose flow is played by hand, one a module, and customers of its."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest
from starlette.testclient import TestClient

from flows.balances import BalanceTeller
from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.migrate import migrate
from infra.postgres.pool import connect
from infra.settings import Settings
from ingestion_api.asgi import create_app
from tests.ingestion_api.entitlements.played_process import (
    KEY,
    Process,
    context_of,
    make_catalogue,
    names,
)
from tests.support.stack import fresh_databases


@pytest.fixture(scope="module")
def process(stack: Settings) -> Iterator[Process]:
    settings = fresh_databases(stack).model_copy(update={"root_key": KEY, "api_key_cache_seconds": 3600})
    ensure_topics(settings)
    with closing(connect(settings.postgres_dsn)) as connection:
        store = connect_clickhouse(settings.clickhouse_url)
        migrate(connection, store)
        store.close()
        producer = Producer(settings.kafka_bootstrap, linger_ms=0, timeout_seconds=10, queued_bytes=1 << 20)
        teller = BalanceTeller(producer, settings.balances_topic, partitions=4, shard=0, shards=1)
        app = create_app(settings)
        with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as http:
            replica = context_of(http).replica
            made = Process(http, replica, connection, teller, settings, itertools.count(1))
            make_catalogue(made)
            yield made
        producer.close(5)


@pytest.fixture
def customer(process: Process) -> str:
    """Somebody on the small plan, counted so far: 4."""
    name = next(names)
    process.post("/v1/customers", {"external_id": name})
    process.post("/v1/subscriptions", {"customer": name, "plan": "small"})
    process.count(name, "tokens", "4", seed=True)
    process.wait_until_known(name, "tokens")
    return name
