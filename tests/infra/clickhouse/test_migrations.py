"""A store that an earlier release made goes on with what it holds."""

from infra.clickhouse.client import connect
from infra.migrate import load_migrations, migrate_clickhouse, split_statements
from infra.settings import Settings
from tests.support.stack import fresh_databases


def test_a_store_of_the_first_release_keeps_its_rows_and_merges_as_a_new_one_does(stack: Settings) -> None:
    client = connect(fresh_databases(stack).clickhouse_url)
    first = load_migrations("clickhouse")[0]
    for statement in split_statements(first.text):
        client.command(statement)
    client.command("INSERT INTO events (id, kafka_offset, received_at) VALUES ('kept', 1, '2026-03-10 12:00:00')")
    migrate_clickhouse(client)
    client.command("INSERT INTO events (id, kafka_offset, received_at) VALUES ('new', 2, '2026-03-10 12:00:00')")
    client.command("OPTIMIZE TABLE events FINAL")
    assert client.query("SELECT id FROM events ORDER BY id").result_rows == [("kept",), ("new",)]
    tables = client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND name != 'migrations'"
        " AND engine != 'MaterializedView'"
    ).result_rows
    assert len(tables) == 7
    assert all("auto_statistics_types = ''" in engine for _, engine in tables), tables
    assert {name for name, engine in tables if "merge_selector_base = 10" in engine} == {
        "events", "event_identities", "event_copies", "usage_values",
    }  # fmt: skip
    client.close()
