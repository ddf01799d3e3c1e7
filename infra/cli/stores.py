"""Tables and topics, brought up to date before the services start."""

from contextlib import closing

from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.topics import ensure_topics
from infra.migrate import migrate
from infra.postgres.pool import connect as connect_postgres
from infra.settings import Settings


def bring_up_to_date(settings: Settings) -> tuple[list[str], list[str]]:
    """The migrations applied and the topics created. Raises what the stores and Kafka raise.

    Each step may be repeated: a kill between two does no harm.
    """
    with closing(connect_postgres(settings.postgres_dsn)) as connection:
        client = connect_clickhouse(settings.clickhouse_url)
        try:
            applied = migrate(connection, client)
        finally:
            client.close()
    return applied, ensure_topics(settings)
