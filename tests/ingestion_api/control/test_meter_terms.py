"""What a meter's body may say, and how a wrong one is named."""

from decimal import Decimal
from typing import Any

import pytest

from ingestion_api.control.meter_terms import FilterBody, read_filters, read_value
from schemas.errors import Reject
from schemas.meters import Aggregation, Filter, FilterOperator

ORDERING = ["gt", "gte", "lt", "lte"]


def read(op: str, *values: Any) -> Filter:
    body = FilterBody.model_validate({"property": "$.x", "op": op, "values": list(values)})
    return read_filters([FilterBody(property="$.y", op="exists", values=[]), body])[1]


@pytest.mark.parametrize(
    ("op", "values", "stored"),
    [
        ("ne", [1], ("1",)),
        ("not_in", ["a", Decimal("1.50")], ('"a"', "1.50")),
        ("gt", [Decimal("0.1")], ("0.1",)),
        ("lte", ["2026-01-01"], ('"2026-01-01"',)),
        ("exists", [], ("true",)),
        ("exists", [True], ("true",)),
        ("exists", [False], ("false",)),
    ],
)
def test_a_filter_is_stored_with_the_texts_of_its_values(op: str, values: list[Any], stored: tuple[str, ...]) -> None:
    assert read(op, *values) == Filter("$.x", FilterOperator(op), stored)


@pytest.mark.parametrize(
    ("op", "values", "place"),
    [
        *[(op, [], "") for op in ("eq", "ne", "in", "not_in", *ORDERING)],
        *[(op, [1, 2], "") for op in ("eq", "ne", *ORDERING)],
        *[(op, [True], "/0") for op in ORDERING],
        ("exists", [True, False], ""),
        ("exists", ["true"], "/0"),
        ("exists", [1], "/0"),
        ("not_in", ["a", 10**38], "/1"),
    ],
)
def test_a_wrong_number_or_kind_of_values_is_named_with_its_place(op: str, values: list[Any], place: str) -> None:
    with pytest.raises(Reject) as refused:
        read(op, *values)
    [error] = refused.value.errors
    assert (error.code, error.pointer) == ("meter.invalid_filter", f"/filters/1/values{place}")


@pytest.mark.parametrize("aggregation", [each for each in Aggregation if each is not Aggregation.COUNT])
def test_every_aggregation_but_count_needs_a_value(aggregation: Aggregation) -> None:
    assert read_value(aggregation, "$.a.b") == "$.a.b"
    with pytest.raises(Reject) as refused:
        read_value(aggregation, None)
    assert refused.value.errors[0].pointer == "/value"


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        (Aggregation.COUNT, "$.a"),
        (Aggregation.UNIQUE_COUNT, "$.a + $.b"),
        (Aggregation.SUM, "$.a / 2"),
        (Aggregation.SUM, "2"),
        (Aggregation.AVG, "-" * 100 + "$.a"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_its_field(aggregation: Aggregation, value: str) -> None:
    with pytest.raises(Reject) as refused:
        read_value(aggregation, value)
    [error] = refused.value.errors
    assert (error.code, error.pointer) == ("meter.invalid_value", "/value")
