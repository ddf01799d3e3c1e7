"""`meterline pricing test`: what it prints and how it exits."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli.pricing import pricing_app

GOOD = {
    "id": "good",
    "kind": "quote",
    "given": {"currency": "USD", "price": {"model": "flat", "amount": "5"}},
    "expect": {"amount": "5"},
}
BAD = GOOD | {"id": "bad", "expect": {"amount": "6"}}


def run(*files: Path) -> tuple[int, list[str], str]:
    result = CliRunner().invoke(pricing_app, ["test", *map(str, files)])
    return result.exit_code, result.stdout.splitlines(), result.stderr


def write(path: Path, *cases: Any) -> Path:
    path.write_text("".join(case if isinstance(case, str) else json.dumps(case) + "\n" for case in cases))
    return path


def test_cases_that_pass_are_counted_over_all_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.jsonl", GOOD, "\n", GOOD), write(tmp_path / "two.jsonl", GOOD)
    assert run(one, two) == (0, ["3 passed, 0 failed"], "")


def test_each_failure_is_one_line_with_expected_and_actual(tmp_path: Path) -> None:
    status, lines, _ = run(write(tmp_path / "x.jsonl", GOOD, BAD, GOOD | {"id": "odd", "kind": "surprise"}))
    assert status == 1
    assert lines[0] == 'FAILED bad expected {"amount":"6"} actual {"amount":"5.00"}'
    assert lines[1].startswith("FAILED odd expected ")
    assert lines[2:] == ["1 passed, 2 failed"]


def test_a_line_that_is_no_json_is_a_failure_named_by_its_place(tmp_path: Path) -> None:
    status, lines, _ = run(write(tmp_path / "x.jsonl", GOOD, "{nope\n", "[" * 100_000 + "\n", "[]\n"))
    assert status == 1
    assert [line.split()[1] for line in lines[:-1]] == ["x.jsonl:2", "x.jsonl:3", "x.jsonl:4"]
    assert lines[-1] == "1 passed, 3 failed"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_can_not_be_read_exits_with_two(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    status, lines, errors = run(path)
    assert (status, lines) == (2, [])
    assert "x.jsonl can't be read" in errors
