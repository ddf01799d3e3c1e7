"""The servers of the embedded stack are the real ones, and answer real questions."""

from infra.clickhouse.probe import probe as probe_clickhouse
from infra.kafka.probe import probe as probe_kafka
from infra.postgres.probe import probe as probe_postgres
from infra.settings import Settings
from infra.temporal.probe import probe as probe_temporal

LIMIT_SECONDS = 5


def test_every_server_answers_and_says_which_it_is(stack: Settings) -> None:
    assert probe_postgres(stack.postgres_dsn, LIMIT_SECONDS).startswith("18.")
    assert probe_clickhouse(stack.clickhouse_url, LIMIT_SECONDS).startswith("26.")
    assert probe_temporal(stack.temporal_address, LIMIT_SECONDS).startswith("1.")
    assert "1 broker" in probe_kafka(stack.kafka_bootstrap, LIMIT_SECONDS)


def test_fresh_databases_are_empty_and_reachable(fresh_stack: Settings) -> None:
    assert probe_postgres(fresh_stack.postgres_dsn, LIMIT_SECONDS)
    assert "/test_" in fresh_stack.clickhouse_url
