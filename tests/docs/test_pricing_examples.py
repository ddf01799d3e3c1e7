"""Every example of the pricing documents is true."""

import json
import re

import pytest

from infra.clickhouse.transactions import MAX_TRANSACTIONS
from pricing.cases import quote_given, run_case
from pricing.metered import MAX_BUCKETS
from pricing.models import READERS
from schemas.meters import BUCKET_AGGREGATIONS
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


def test_the_page_says_which_buckets_a_meter_can_give_and_how_many() -> None:
    page = MODELS.read_text(encoding="utf-8")
    names = re.compile(r"`(\w+)`")
    rows = re.findall(r"^\| (`.*`) \| (`.*`) \|$", page, re.MULTILINE)
    said = {meter: set(names.findall(given)) for meters, given in rows for meter in names.findall(meters)}
    assert said == {meter.value: {each.value for each in given} for meter, given in BUCKET_AGGREGATIONS.items()}
    assert f"{MAX_BUCKETS:,} buckets" in page
    assert f"Up to {MAX_TRANSACTIONS:,} a period" in page
