"""`meterline pricing simulate` against the running services."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import Services

PLAN = {"currency": "USD", "prices": [{"key": "base", "type": "fixed", "model": "flat", "amount": "49.5"}]}
RANGE = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-04-01T00:00:00Z")


@pytest.fixture(scope="module")
def key(services: Services) -> str:
    """The key of a tenant with two customers and a plan."""
    key = services.new_tenant_key()
    with services.client(key) as api:
        for name in ("acme", "brook"):
            assert api.post("/v1/customers", json={"external_id": name, "name": name}).status_code == 201
        assert api.post("/v1/plans", json={"key": "flat", **PLAN}).status_code == 201
    return key


def run(services: Services, key: str, plan: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli.app", "pricing", "simulate", plan, *RANGE, *options]
    command += ["--url", services.url, "--api-key", key]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_stored_plan_is_shown_as_a_table_with_its_total(services: Services, key: str) -> None:
    done = run(services, key, "flat")
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert sorted(cells) == [
        ["Total", "297.00", "0.00", "297.00"],
        ["acme", "148.50", "0.00", "148.50"],
        ["brook", "148.50", "0.00", "148.50"],
    ]


def test_a_plan_of_a_file_is_simulated_for_the_customers_named_and_for_spreadsheets(
    services: Services, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN), encoding="utf-8")
    done = run(services, key, str(path), "--customer", "brook", "--csv")
    assert done.returncode == 0, done.stderr
    _, row, total = done.stdout.splitlines()
    assert (row.split(",")[0], row.split(",")[3]) == ("brook", "148.50")
    assert total == "total,,USD,148.50,0.00,148.50,"
    answer = json.loads(run(services, key, str(path), "--json").stdout)
    assert answer["total"]["simulated"] == "297.00"


def test_what_the_api_refuses_is_said_in_a_sentence(services: Services, key: str) -> None:
    done = run(services, key, "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("plan.not_found: ")
    assert run(services, key, "missing.json").returncode == 2
