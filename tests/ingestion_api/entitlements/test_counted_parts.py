"""What shards have counted is the same quantity out of memory and over PostgreSQL, for every aggregation."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.balances import BalanceTeller
from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.producer import Producer
from infra.migrate import migrate
from infra.postgres.counters import CounterChange, CounterRow, SeededBy, insert_counters, load_used, mark_stale
from infra.postgres.entitlement_copies import counter_rows, load_revisions
from infra.postgres.pool import PgConnection, connect
from infra.settings import Settings
from ingestion_api.asgi import create_app
from ingestion_api.entitlements.book import Book, Part
from schemas.balances import decode, encode
from schemas.counters import COUNTED_BY, RANKED, CounterPart, combine
from schemas.instants import to_micros
from schemas.meters import Aggregation
from tests.support.stack import fresh_databases

KEY = "mtr_key-of-the-tests-of-parts"
START = datetime(2026, 3, 1, tzinfo=UTC)
SHARDS = 3
VALUES = ["0", "-1", "2.5", "7", "7", "99999999999999999999999999999999999999.000000000001", "-1000000000000000000000"]


@pytest.fixture(scope="module")
def settings(stack: Settings) -> Settings:
    return fresh_databases(stack).model_copy(update={"root_key": KEY})


@pytest.fixture(scope="module")
def connection(settings: Settings) -> Iterator[PgConnection]:
    """Stores with five entitlements to a feature of each aggregation."""
    with closing(connect(settings.postgres_dsn)) as made:
        store = connect_clickhouse(settings.clickhouse_url)
        migrate(made, store)
        store.close()
        with TestClient(create_app(settings), headers={"authorization": f"Bearer {KEY}"}) as http:
            for aggregation in sorted(COUNTED_BY):
                value = {} if aggregation is Aggregation.COUNT else {"value": "$.n"}
                meter = {"key": aggregation, "event_type": "t", "aggregation": aggregation, **value}
                _post(http, "/v1/meters", meter)
                _post(http, "/v1/features", {"key": aggregation, "type": "metered", "meter": aggregation})
            granted = [{"feature": each, "limit": "9", "reset": "never"} for each in sorted(COUNTED_BY)]
            _post(http, "/v1/plans", {"key": "all", "currency": "USD", "prices": [], "entitlements": granted})
            for number in range(5):
                _post(http, "/v1/customers", {"external_id": f"c{number}"})
                _post(http, "/v1/subscriptions", {"customer": f"c{number}", "plan": "all"})
        yield made


def _post(http: TestClient, path: str, body: Any) -> None:
    assert http.post(path, json=body).status_code == 201


@pytest.fixture(scope="module")
def producer(settings: Settings) -> Iterator[Producer]:
    made = Producer(settings.kafka_bootstrap, linger_ms=0, timeout_seconds=10, queued_bytes=1 << 20)
    yield made
    made.close(5)


@pytest.mark.parametrize("seed", range(6))
def test_memory_and_postgresql_combine_the_parts_of_shards_alike(
    connection: PgConnection, producer: Producer, seed: int
) -> None:
    drawn = random.Random(seed)
    entitled = connection.execute(
        "SELECT e.no, m.no AS meter_no, m.aggregation FROM entitlements e JOIN features f ON f.id = e.feature_id"
        " JOIN meters m ON m.id = f.meter_id"
    ).fetchall()
    connection.execute("DELETE FROM entitlement_counters")
    told, loaded = (Book(partitions=4, shards=SHARDS) for _ in range(2))
    for shard in range(SHARDS + 1):
        layout = SHARDS if shard < SHARDS and drawn.random() < 0.9 else SHARDS + 1
        rows = list(_count(connection, drawn, SeededBy(shard=shard, shards=layout), entitled))
        teller = BalanceTeller(producer, "none", partitions=4, shard=shard, shards=layout)
        for message in teller.messages(rows, seq=1, until={}):
            told.take_counted(_decoded(message))
    with connection.transaction():
        for shard in range(SHARDS + 1):
            for row, shards, version in counter_rows(connection, shard=shard):
                part = Part(row.part, row.meter_revision, version, shards, row.is_stale)
                loaded.take_part(row.entitlement_no, to_micros(row.period_start), shard, part)
    found = load_used(connection, [(row["no"], START) for row in entitled], shards=SHARDS)
    assert 0 < len(found) < len(entitled), "some are not complete"
    for book in (told, loaded):
        book.take_revisions(load_revisions(connection, meter_nos=None))
        for row in entitled:
            assert book._used(row, to_micros(START)) == found.get((row["no"], START)), row["aggregation"]


def _decoded(message: Any) -> Any:
    return decode(encode(message))


def _count(connection: PgConnection, drawn: random.Random, by: SeededBy, entitled: list[Any]) -> Iterator[CounterRow]:
    """One shard's rows, of nearly all entitlements: a few of another revision, a few stale."""
    for row in entitled:
        if drawn.random() < 0.03:
            continue
        aggregation, value = Aggregation(row["aggregation"]), Decimal(drawn.choice(VALUES))
        length = {Aggregation.LATEST: 5}.get(aggregation, 1)
        rank = tuple(Decimal(drawn.choice(VALUES)) for _ in range(length)) if aggregation in RANKED else None
        empty = drawn.random() < 0.2
        change = CounterChange(
            entitlement_no=row["no"],
            period_start=START,
            meter_revision=2 if drawn.random() < 0.03 else 1,
            quantity=Decimal(0) if empty else value,
            events=drawn.randrange(1, 9) if aggregation is Aggregation.AVG and not empty else 0,
            rank=None if empty else rank,
        )
        made = insert_counters(connection, by=by, seq=1, changes=[change], ranked=aggregation in RANKED)
        if drawn.random() < 0.03:
            made = mark_stale(connection, by=by, seq=1, changes=[change])
        yield from made


def test_parts_become_one_quantity_as_their_aggregation_says() -> None:
    first = CounterPart(Decimal("1.5"), 2, (Decimal(1), Decimal(9)))
    second = CounterPart(Decimal(10), 1, (Decimal(2), Decimal(-1)))
    nothing = CounterPart(Decimal(0))
    parts = [first, nothing, second]
    assert combine(Aggregation.SUM, parts) == combine(Aggregation.UNIQUE_COUNT, parts) == Decimal("11.5")
    assert combine(Aggregation.AVG, parts) == Decimal("3.833333333333")
    assert combine(Aggregation.LATEST, parts) == combine(Aggregation.MAX, parts) == 10
    assert {combine(aggregation, [nothing]) for aggregation in COUNTED_BY} == {0}
