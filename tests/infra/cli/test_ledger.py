"""`meterline doctor --ledger` on a real store."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from infra.clickhouse.client import connect as connect_clickhouse
from infra.migrate import migrate
from infra.postgres.invariants.check import RULES
from infra.postgres.pool import connect
from infra.settings import Settings


@pytest.fixture
def settings(fresh_stack: Settings) -> Settings:
    """Stores that are migrated, with one tenant."""
    clickhouse = connect_clickhouse(fresh_stack.clickhouse_url)
    with connect(fresh_stack.postgres_dsn) as connection:
        migrate(connection, clickhouse)
        connection.execute("INSERT INTO tenants (id, name, created_at) VALUES ('ten_a', 'a', now())")
    clickhouse.close()
    return fresh_stack


def doctor(settings: Settings) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli.app", "doctor", "--ledger", "--json"],
        env=os.environ | {"METERLINE_POSTGRES_DSN": settings.postgres_dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_ledger_that_adds_up_is_told_by_0_and_a_gap_in_numbers_by_1(settings: Settings) -> None:
    status, report = doctor(settings)
    assert (status, report["ok"]) == (0, True)
    assert [rule["rule"] for rule in report["rules"]] == list(RULES)
    with connect(settings.postgres_dsn) as connection:
        connection.execute("INSERT INTO invoice_sequences (tenant_id, next_number) VALUES ('ten_a', 2)")
    status, report = doctor(settings)
    assert (status, report["ok"]) == (1, False)
    assert [rule for rule in report["rules"] if rule["ids"]] == [
        {"rule": "invoice.numbers_have_a_gap", "ids": ["ten_a"]}
    ]
