"""The servers of the embedded stack are the real ones, and answer real questions."""

import pytest

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


@pytest.mark.parametrize("number", range(4))
def test_fresh_databases_exist(fresh_stack: Settings, number: int) -> None:
    assert probe_postgres(fresh_stack.postgres_dsn, LIMIT_SECONDS)
