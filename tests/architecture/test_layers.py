"""The house's contracts hold, and would be seen to break."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "pricing", "infra", "flows", "ingestion_api", "billing_workflows")

FORBIDDEN = {
    "schemas/planted.py": "import pricing",
    "pricing/planted.py": "import infra.settings",
    "flows/planted.py": "import ingestion_api",
    "ingestion_api/planted.py": "import psycopg",
    "billing_workflows/planted.py": "import clickhouse_connect",
    "flows/planted_kafka.py": "import confluent_kafka",
    "infra/postgres/planted.py": "import temporalio",
    "infra/planted.py": "import fastapi",
    "infra/kafka/planted.py": "import bytewax",
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    lint = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([lint, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages' sources in a folder of their own, where a bad import can be planted."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold_and_each_planted_import_is_refused(copy: Path) -> None:
    clean = lint_imports(copy)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    for name, line in FORBIDDEN.items():
        (copy / name).write_text(line + "\n", encoding="utf-8")
    broken = lint_imports(copy)
    assert broken.returncode == 1
    for name in FORBIDDEN:
        module = name.removesuffix(".py").replace("/", ".")
        assert module in broken.stdout, f"{module} was not refused:\n{broken.stdout}"
