import json
import os
import subprocess
import sys

import pytest

from infra.settings import Settings


def run(settings: Settings, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`meterline migrate` in a process of its own, with these addresses."""
    addresses = {
        f"METERLINE_{name.upper()}": str(getattr(settings, name))
        for name in (
            "postgres_dsn",
            "clickhouse_url",
            "kafka_bootstrap",
            "events_topic",
            "balances_topic",
            "system_topic",
        )
    }
    return subprocess.run(
        [sys.executable, "-c", "from infra.cli.app import main; main()", "migrate", *options],
        env={**os.environ, **addresses, **changes},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_migrate_brings_stores_and_topics_up_to_date_once(fresh_stack: Settings) -> None:
    first = run(fresh_stack, "--json")
    assert first.returncode == 0, first.stderr
    done = json.loads(first.stdout)
    assert "0001_foundation.sql" in done["migrations"]
    assert "0001_usage.sql" in done["migrations"]
    assert set(done["topics"]) == {fresh_stack.events_topic, fresh_stack.balances_topic, fresh_stack.system_topic}
    again = run(fresh_stack)
    assert (again.returncode, again.stdout.strip()) == (0, "everything is up to date")


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"METERLINE_POSTGRES_DSN": ""}, 2, "METERLINE_POSTGRES_DSN"),
        ({"METERLINE_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none"}, 1, "not migrated"),
        ({"METERLINE_CLICKHOUSE_URL": "http://127.0.0.1:1/none"}, 1, "not migrated"),
    ],
)
def test_migrate_says_what_is_missing_or_does_not_answer(
    fresh_stack: Settings, change: dict[str, str], status: int, word: str
) -> None:
    failed = run(fresh_stack, **change)
    assert failed.returncode == status
    assert word in failed.stderr
    assert "Traceback" not in failed.stderr
