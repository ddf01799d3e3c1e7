"""No float near money or usage, and files that a person can read in one sitting."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "pricing", "infra", "flows", "ingestion_api", "billing_workflows")
MAX_LINES = 400

#: Where a fraction of a second or a share of memory is measured, never money or usage.
EXACT_PACKAGES = ("schemas", "pricing")


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def floats(tree: ast.AST) -> list[int]:
    """Lines with a float literal, the name `float`, or a true division of literals."""
    lines: list[int] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float()) | ast.Name(id="float"):
                lines.append(node.lineno)
            case _:
                pass
    return lines


@pytest.mark.parametrize("path", sources(*EXACT_PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_float_stands_in_money_or_usage_code(path: Path) -> None:
    assert floats(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_float_check_sees_a_float() -> None:
    assert floats(ast.parse("a = 1.5\nb: float = 2\nc = float('3')")) == [1, 2, 3]


def test_no_file_is_longer_than_a_person_reads_in_one_sitting() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in sources(*PACKAGES) if (n := len(p.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}
