"""Arithmetic by columns is the arithmetic of the rule, and what columns can't hold is left to it."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.fields import MAX_WHOLE, SCALE
from flows.formulas import formula_values
from schemas.arithmetic import parse_value
from schemas.errors import Reject
from schemas.matching import quantity_by, value_at

EXPRESSIONS = [
    "$.a + 3 * $.b",
    "$.a * $.b",
    "$.a * $.a * $.b",
    "-$.a - (2.5 - $.b) * 0.01",
    "0.000001 * $.a * 0.0000001 * $.b",
    "1000000000000 * $.a - 999999999999.5 * $.b",
    "99999999999999999999 * $.a - 99999999999999999999 * $.b",
]
small = st.integers(-100, 100)
numbers = st.one_of(
    small,
    small,
    st.integers(-MAX_WHOLE, MAX_WHOLE),
    st.sampled_from(
        [Decimal("0.5"), Decimal("-1.0000000001"), Decimal("1e-13"), Decimal("1099511627775.999999999999")]
    ),
    st.sampled_from([1 << 40, 1 << 62, -(1 << 63), 10**38, None, "2.5", "x"]),
)
pairs = st.one_of(st.tuples(small, small), st.tuples(numbers, numbers))


def by_the_rule(text: str, a: object, b: object) -> Fraction | type[Reject] | None:
    """What the rule takes; Reject for what it refuses."""
    try:
        quantity = quantity_by(parse_value(text), lambda path: value_at({"a": a, "b": b}, path))
    except Reject:
        return Reject
    return None if quantity is None else Fraction(quantity.value)


@settings(deadline=None)
@given(text=st.sampled_from(EXPRESSIONS), rows=st.lists(pairs, min_size=1, max_size=12))
@example(text="$.a * $.b", rows=[((1 << 32) + 1, 1 << 31), (3, 4)])  # just within 64 bits
@example(text="$.a * $.b", rows=[(1 << 32, 1 << 31), (3, 4)])  # just beyond, and would come out small
@example(text="$.a * $.a * $.b", rows=[(1 << 33, 1 << 33), (3, 4)])  # a product that is a multiple of 2^64
@example(text="0.000001 * $.a * 0.0000001 * $.b", rows=[(5, 1), (-5, 1), (4, 1)])  # a half of the last digit
@example(text="-$.a - (2.5 - $.b) * 0.01", rows=[(1, 1)])
def test_columns_are_computed_as_single_values_are(text: str, rows: list[tuple[Any, Any]]) -> None:
    expression = parse_value(text)
    found = formula_values(expression, {path: [row["ab".index(path[0])] for row in rows] for path in expression.paths})
    for index, (a, b) in enumerate(rows):
        expected = by_the_rule(text, a, b)
        if expected is Reject or (isinstance(expected, Fraction) and abs(expected) > MAX_WHOLE - 1):
            assert found.odd[index], "what the rule refuses, or columns can't hold, is left to the rule"
            assert not found.present[index]
        elif expected is None:
            assert not found.present[index]
            assert not found.odd[index]
        else:
            assert found.present[index]
            assert not found.odd[index]
            assert Fraction(int(found.whole[index]) * SCALE + int(found.part[index]), SCALE) == expected


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_rows_of_small_numbers_are_computed_at_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where a result can be finer than 12 digits or beyond 64 bits, which only the rule rounds and holds."""
    judged: list[object] = []

    def judge(*arguments: object) -> None:
        judged.append(arguments)

    monkeypatch.setattr("flows.formulas.quantity_by", judge)
    expression = parse_value(text)
    formula_values(expression, {path: [1, Decimal("2.5"), -3] for path in expression.paths})
    assert bool(judged) == (text in {EXPRESSIONS[4], EXPRESSIONS[6]})
