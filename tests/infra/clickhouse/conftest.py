"""A migrated ClickHouse database for the queries' tests."""

from collections.abc import Iterator

import pytest

from infra.clickhouse.client import Client, connect
from infra.migrate import migrate_clickhouse
from infra.settings import Settings
from tests.support.stack import fresh_databases


@pytest.fixture(scope="module")
def clickhouse(stack: Settings) -> Iterator[Client]:
    """A client of a database of this module's own, with all tables, and no merges."""
    client = connect(fresh_databases(stack).clickhouse_url)
    migrate_clickhouse(client)
    for table in ("events", "event_copies", "event_changes", "event_sources", "usage_minutes", "usage_values"):
        client.command(f"SYSTEM STOP MERGES {table}")  # rows that stand twice stay so
    yield client
    client.close()
