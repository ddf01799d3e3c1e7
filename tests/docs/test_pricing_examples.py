"""Every example of the pricing documents is true."""

import json
import re

import pytest

from pricing.cases import quote_given, run_case
from pricing.models import READERS
from tests.support.pages import DOCS, ROOT, blocks

README = ROOT / "pricing" / "README.md"
MODELS = DOCS / "pricing-models.md"


CASES = [json.loads(block) for block in blocks(MODELS, "json")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_each_worked_example_comes_to_what_it_says(case: dict[str, object]) -> None:
    result = run_case(case)
    assert result.passed, result


def test_every_model_has_a_worked_example() -> None:
    shown = {case["given"]["price"]["model"] for case in CASES if case["kind"] == "quote"}
    assert shown == set(READERS)


def test_the_readme_shows_each_model_once_and_truly() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.*?)` \|(?: `(.*?)`)? \| (\S+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [model for model, *_ in rows] == list(READERS)
    for model, fields, usage, cost in rows:
        price = json.loads("{" + fields + "}") | {"model": model}
        assert quote_given({"currency": "USD", "price": price, **json.loads("{" + usage + "}")})["exact"] == cost


def test_the_code_of_the_readme_runs() -> None:
    found = blocks(README, "python")
    assert found
    for block in found:
        exec(compile(block, str(README), "exec"), {})  # noqa: S102 - the README's own code


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 80
