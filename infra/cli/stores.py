"""Tables and topics, brought up to date before the services start."""

from collections.abc import Callable

from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.topics import ensure_topics
from infra.migrate import migrate
from infra.postgres.pool import connect as connect_postgres
from infra.settings import Settings


def prepare(settings: Settings, report: Callable[[str], None]) -> None:
    """Apply missing migrations and make missing topics. Each step may be repeated: a kill between two does no harm."""
    client = connect_clickhouse(settings.clickhouse_url)
    try:
        with connect_postgres(settings.postgres_dsn) as connection:
            for name in migrate(connection, client):
                report(f"applied {name}")
    finally:
        client.close()
    for topic in ensure_topics(settings):
        report(f"made the topic {topic}")
