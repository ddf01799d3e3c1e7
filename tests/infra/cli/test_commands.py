"""The command line: help without imports, doctor with advice, dev from ready to Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from infra.local import leftovers
from infra.settings import Settings

COMMAND = [sys.executable, "-m", "infra.cli.app"]
ADDRESSES = ("postgres_dsn", "clickhouse_url", "kafka_bootstrap", "temporal_address")
TOPICS = ("events_topic", "balances_topic", "system_topic")


def environment(**settings: object) -> dict[str, str]:
    """An environment in which these settings, and no other addresses, stand."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    cache = {"METERLINE_CACHE_DIR": str(Settings().cache_dir)}
    return clean | cache | {f"METERLINE_{name.upper()}": str(value) for name, value in settings.items()}


def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment(**settings)
    )


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from infra.cli.app import COMMANDS, main\n"
        "sys.argv = ['meterline', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('psycopg', 'infra.cli.dev', 'pydantic', 'temporalio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in ("dev", "doctor", "version"))


@pytest.mark.parametrize(
    ("command", "mark"),
    [("api", "ingestion_api/__main__.py"), ("flow", '"service": "flows"'), ("worker", "billing_workflows/__main__.py")],
    ids=["api", "flow", "worker"],
)
def test_a_service_is_the_process_that_was_started(command: str, mark: str) -> None:
    nowhere = {"postgres_dsn": "postgresql://127.0.0.1:9/x", "clickhouse_url": "http://127.0.0.1:9/x"}
    with subprocess.Popen([*COMMAND, command], stderr=subprocess.PIPE, env=environment(**nowhere)) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()  # it says who or where it was when a server did not answer
        assert process.wait(60) == 1
    assert mark in said


def test_an_unknown_command_is_misuse() -> None:
    assert run("nonsense").returncode == 2


def test_version_is_there_for_machines() -> None:
    assert set(json.loads(run("version", "--json").stdout)) == {"meterline", "python"}


def test_doctor_says_what_to_do_when_nothing_runs(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--data-dir", str(tmp_path), api_port=9)
    assert done.returncode == 1
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is False
    assert [component["name"] for component in report["components"]] == [
        "postgres", "kafka", "clickhouse", "temporal", "flow", "worker", "api",
    ]  # fmt: skip
    for component in report["components"]:
        assert set(component) == {"name", "address", "version", "ok", "detail"}
        assert component["ok"] is False
        assert "meterline dev" in component["detail"]


def test_doctor_shows_no_password(tmp_path: Path) -> None:
    given = {"postgres_dsn": "postgresql://me:secret@127.0.0.1:9/x", "clickhouse_url": "http://me:secret@127.0.0.1:9/x"}
    done = run("doctor", "--data-dir", str(tmp_path), api_port=9, **given)
    assert "secret" not in done.stdout + done.stderr
    assert "METERLINE_POSTGRES_DSN" in done.stdout


def test_doctor_asks_the_api_that_other_commands_ask(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--data-dir", str(tmp_path), url="http://127.0.0.1:9/")
    [found] = [each for each in json.loads(done.stdout)["components"] if each["name"] == "api"]
    assert found["address"] == "http://127.0.0.1:9"


def test_help_of_a_benchmark_names_the_command() -> None:
    assert "usage: meterline bench pricing" in run("bench", "pricing", "--help").stdout


def test_numbers_of_any_length_that_an_event_can_hold_are_read() -> None:
    code = (
        "import json, sys; from infra.cli.app import main\n"
        "sys.argv = ['meterline', 'version', '--json']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(json.loads('9' * 60000) % 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "9"


def test_help_of_meters_offers_no_completion() -> None:
    assert "completion" not in run("meters", "--help").stdout


def test_dev_serves_until_ctrl_c_on_servers_that_are_given(fresh_stack: Settings, tmp_path: Path) -> None:
    given = {name: getattr(fresh_stack, name) for name in (*ADDRESSES, *TOPICS)}
    (tmp_path / ".env").write_text("METERLINE_LOG_FORMAT=json\nMETERLINE_LOG_LEVEL=debug\n")
    command = [*COMMAND, "dev", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "stderr").open("w") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(**given), cwd=tmp_path
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready http://127.0.0.1:"), (tmp_path / "stderr").read_text()
        url = line.removeprefix("ready ").strip()
        with urlopen(f"{url}/readyz", timeout=10) as response:  # noqa: S310 - our own http URL
            assert response.status == 200
        done = run("doctor", "--json", "--data-dir", str(tmp_path / "data"), **given)
        assert done.returncode == 0, done.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not leftovers.find(tmp_path / "data")
    requests = [line for line in (tmp_path / "data/logs/api.log").read_text().splitlines() if "/readyz" in line]
    assert all(json.loads(line)["path"] == "/readyz" for line in requests), "the services take .env over"
    assert requests
    said = (tmp_path / "stderr").read_text()
    assert "API key of the tenant `default`: mtr_" in said
    assert "Traceback" not in said
