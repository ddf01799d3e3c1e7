"""Blocks that arrive whole, and identities that are found again."""

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from infra.clickhouse import sink
from infra.clickhouse.client import ClickHouseError, Client, connect
from infra.clickhouse.sink import (
    StoredIdentity,
    count_identities,
    identity_pages,
    insert_table,
    stored_identities,
)
from infra.migrate import migrate_clickhouse
from infra.settings import Settings
from schemas.instants import to_micros

APPENDED = datetime(2026, 3, 10, 12, tzinfo=UTC)
COUNT = 5_000


def hash_of(number: int) -> bytes:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).digest()


@pytest.fixture
def client(fresh_stack: Settings) -> Client:
    """ClickHouse with COUNT identities: even ones on partition 0, odd ones on 1, a second apart."""
    client = connect(fresh_stack.clickhouse_url)
    migrate_clickhouse(client)
    numbers = np.arange(COUNT)
    insert_table(
        client,
        "event_identities",
        pa.table(
            {
                "hash": pa.array([hash_of(number) for number in range(COUNT)], pa.binary(16)),
                "kafka_partition": pa.array((numbers % 2).astype(np.uint16)),
                "kafka_offset": pa.array(numbers),
                "kafka_index": pa.array((numbers + 7).astype(np.uint32)),
                "received_at": pa.array(
                    [APPENDED + timedelta(seconds=number) for number in range(COUNT)], pa.timestamp("us", "UTC")
                ),
            }
        ),
        token="first",
    )
    return client


def test_identities_are_found_by_their_hashes_over_several_pages(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "LOOKUP_PAGE", 7)
    wanted = [hash_of(number) for number in [*range(50), COUNT + 1]]
    found = stored_identities(client, wanted)
    assert len(found) == 50
    assert found[hash_of(3)] == [StoredIdentity(1, 3, 10, to_micros(APPENDED + timedelta(seconds=3)))]


def test_one_look_up_takes_a_full_page(client: Client) -> None:
    assert len(stored_identities(client, [hash_of(number) for number in range(COUNT)])) == COUNT


def test_pages_hold_every_identity_of_the_partitions_since_the_instant_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "IDENTITY_PAGE", 300)
    since = APPENDED + timedelta(seconds=1_000)
    count = count_identities(client, [1], since=since)
    pages = list(identity_pages(client, [1], since=since, count=count))
    assert count == 2_000
    assert len(pages) == 7
    blob = b"".join(pages)
    found = sorted(blob[start : start + 16] for start in range(0, len(blob), 16))
    assert found == sorted(hash_of(number) for number in range(1_001, COUNT, 2))
    assert count_identities(client, [0, 1], since=None) == COUNT


def test_the_same_token_stores_a_block_once(client: Client) -> None:
    row = pa.table({"meter_no": pa.array([1], pa.uint32())})
    for _ in range(2):
        insert_table(client, "usage_minutes", row, token="same")
    assert client.query("SELECT count() FROM usage_minutes").result_rows == [(1,)]


def test_rows_that_do_not_fit_the_table_are_refused(client: Client) -> None:
    with pytest.raises(ClickHouseError):
        insert_table(client, "usage_minutes", pa.table({"nonsense": pa.array([1])}), token="t")
