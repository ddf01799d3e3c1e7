"""A database of each module's own on the server under contract."""

import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with a database of this module's own."""
    server = os.environ.get("METERLINE_TEST_CLICKHOUSE_URL") or request.getfixturevalue("stack").clickhouse_url
    database = f"contract_{uuid.uuid4().hex[:12]}"
    client = clickhouse_connect.get_client(dsn=urlsplit(server)._replace(path="/default").geturl())
    client.command(f"CREATE DATABASE {database}")
    yield urlsplit(server)._replace(path=f"/{database}").geturl()
    client.command(f"DROP DATABASE {database}")
    client.close()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
    yield client
    client.close()


@pytest.fixture
def table(client: Client) -> str:
    """An empty table of (id, name, amount)."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    client.command(
        f"CREATE TABLE {name} (id UInt64, name LowCardinality(String), amount Decimal(38, 12))"
        " ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
    )
    return name
