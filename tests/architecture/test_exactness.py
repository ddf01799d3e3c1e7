"""No float near money or usage, and files that a person can read in one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "pricing", "infra", "flows", "ingestion_api", "billing_workflows")
MAX_LINES = 400

#: What decides amounts and quantities, or carries them between the log, the stores and an answer. Elsewhere a float may
#: be a share of a second.
EXACT = (
    "schemas",
    "pricing",
    "infra/postgres",
    "infra/clickhouse",
    "flows/attribute.py",
    "flows/attributed.py",
    "flows/columns.py",
    "flows/combine.py",
    "flows/counters.py",
    "flows/fields.py",
    "flows/formulas.py",
    "flows/rows.py",
    "flows/seed.py",
    "ingestion_api/control",
    "ingestion_api/entitlements",
    "ingestion_api/queries",
    "billing_workflows/billing.py",
)


def sources(*places: str) -> list[Path]:
    """The Python files of packages, folders or single files, by their paths from the root."""
    paths = [ROOT / place for place in places]
    assert all(path.exists() for path in paths), "a place that is gone is not looked at"
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


def floats(tree: ast.AST) -> list[int]:
    """Lines with a float literal or the name `float`."""
    lines: list[int] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float()) | ast.Name(id="float"):
                lines.append(node.lineno)
            case _:
                pass
    return lines


#: Asks a server whether it answers, within a share of a second.
PROBE = "probe.py"


@pytest.mark.parametrize(
    "path", [path for path in sources(*EXACT) if path.name != PROBE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_float_stands_in_money_or_usage_code(path: Path) -> None:
    assert floats(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_float_check_sees_a_float() -> None:
    assert floats(ast.parse("a = 1.5\nb: float = 2\nc = float('3')")) == [1, 2, 3]


def test_no_file_is_longer_than_a_person_reads_in_one_sitting() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in sources(*PACKAGES) if (n := len(p.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}
