"""What each operator of a filter lets through."""

from decimal import Decimal

import pytest

from schemas.filters import literal_text, passes
from schemas.matching import parse_data, value_at
from schemas.meters import Filter, FilterOperator

Literal = str | bool | int | Decimal


def let_through(op: FilterOperator, text: str | None, *literals: Literal) -> bool:
    """Whether the filter passes data with this JSON text at its property, or without the property."""
    data = parse_data("{}" if text is None else f'{{"f": {text}}}')
    return passes(Filter("$.f", op, tuple(map(literal_text, literals))), value_at(data, ("f",)))


@pytest.mark.parametrize("text", [None, "null"])
def test_nothing_equals_no_value_and_differs_from_all(text: str | None) -> None:
    assert not let_through(FilterOperator.EQ, text, "a")
    assert not let_through(FilterOperator.IN, text, "a", 0)
    assert let_through(FilterOperator.NE, text, "a")
    assert let_through(FilterOperator.NOT_IN, text, "a", 0)
    assert not any(let_through(op, text, 0) for op in FilterOperator if op.startswith(("g", "l")))


@pytest.mark.parametrize(
    ("text", "there"),
    [(None, False), ("null", False), ("0", True), ('""', True), ("false", True), ("[]", True), ("9" * 5000, True)],
)
def test_exists_asks_whether_anything_is_there(text: str | None, there: bool) -> None:
    assert let_through(FilterOperator.EXISTS, text, True) is there
    assert let_through(FilterOperator.EXISTS, text, False) is not there


@pytest.mark.parametrize("text", ["1", "1.0", "1e0", "10e-1", "100000000000000000000e-20"])
@pytest.mark.parametrize("literal", [1, Decimal("1.0"), Decimal("1E0")])
def test_numbers_compare_as_numbers(text: str, literal: Literal) -> None:
    assert let_through(FilterOperator.EQ, text, literal)
    assert let_through(FilterOperator.IN, text, "x", literal)
    assert not let_through(FilterOperator.NE, text, literal)
    assert not let_through(FilterOperator.NOT_IN, text, literal, 7)
    assert let_through(FilterOperator.GTE, text, literal)
    assert let_through(FilterOperator.LTE, text, literal)
    assert not let_through(FilterOperator.GT, text, literal)
    assert not let_through(FilterOperator.LT, text, literal)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("1", "2"),
        ("-1e400", "1e-400"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("9007199254740992", "9007199254740993"),
        ("999999", "1e6"),
        ('"10"', '"9"'),  # strings, by their code points
        ('"Z"', '"a"'),
        ('""', '"a"'),
        ('"\\uffff"', '"\\ud83d\\ude00"'),  # by code points, and not by UTF-16
    ],
)
def test_an_order_is_that_of_numbers_or_of_code_points(less: str, more: str) -> None:
    low, high = (parse_data(f'{{"f": {text}}}')["f"] for text in (less, more))
    assert isinstance(low, str | int | Decimal)
    assert isinstance(high, str | int | Decimal)
    for op in (FilterOperator.GT, FilterOperator.GTE):
        assert let_through(op, more, low)
        assert not let_through(op, less, high)
    for op in (FilterOperator.LT, FilterOperator.LTE):
        assert let_through(op, less, high)
        assert not let_through(op, more, low)


@pytest.mark.parametrize("op", [op for op in FilterOperator if op.startswith(("g", "l"))])
@pytest.mark.parametrize("text", ["true", "false", '"5"', "[5]", '{"a":5}', "null", "9" * 5000])
def test_what_has_no_order_with_a_number_does_not_pass(op: FilterOperator, text: str) -> None:
    assert not let_through(op, text, 5)


@pytest.mark.parametrize(
    ("text", "literal"), [('"1"', 1), ("1", "1"), ("true", 1), ("1", True), ('"true"', True), ("[1]", 1), ("0", False)]
)
def test_nothing_crosses_kinds(text: str, literal: Literal) -> None:
    assert not let_through(FilterOperator.EQ, text, literal)
    assert let_through(FilterOperator.NE, text, literal)


@pytest.mark.parametrize("text", ["9" * 5000, "1e99999999999999999999", '{"a": 1e99999999999999999999}'])
def test_what_cannot_be_read_equals_nothing(text: str) -> None:
    assert not let_through(FilterOperator.EQ, text, 1)
    assert let_through(FilterOperator.NOT_IN, text, 1, "a")
