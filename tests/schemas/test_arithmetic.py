"""Arithmetic in a meter's value: read as it is written in mathematics, computed exactly, refused with a reason."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arithmetic import MAX_NESTING, MAX_OPERANDS, MAX_VALUE_LENGTH, evaluate, parse_value
from schemas.errors import Reject
from schemas.matching import Quantity, parse_data, quantity_by, value_at

NUMBERS = {"a": Decimal(2), "b": Decimal(3), "c": Decimal("0.5"), "user-id": Decimal(7)}


def yields(text: str) -> Decimal:
    return evaluate(parse_value(text), lambda path: NUMBERS[path[0]])


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$.a", "2"),
        ("$.a + 3 * $.b", "11"),
        ("($.a + 3) * $.b", "15"),
        ("$.a - $.b - $.c", "-1.5"),
        ("$.a - ($.b - $.c)", "-0.5"),
        ("$.a-$.b", "-1"),
        ("-$.a * $.b", "-6"),
        ("$.a * -$.b", "-6"),
        ("--$.a", "2"),
        ("$.a - -$.b", "5"),
        ("$.a \u2212 \u2212$.b\u2212$.b", "2"),
        ("1e3 * $.a + 2.5E+1 - 5e-1*$.a + 5e\u22121", "2024.5"),
        (" \t( $.a )\n* 1.50 ", "3"),
        ("$['user-id']*$.a", "14"),
        ("0.000000000001 * $.c", "0.0000000000005"),
        ("$.a * $.a * $.a - 2 * $.a", "4"),
    ],
)
def test_an_expression_means_what_it_means_in_mathematics(text: str, result: str) -> None:
    assert yields(text) == Decimal(result)


def test_a_bare_path_is_known_as_one() -> None:
    assert parse_value("$.a.b").path == parse_value(" ($.a.b) ").path == ("a", "b")
    assert parse_value("-$.a").path is None
    assert parse_value("$.b + $.a * $.b").paths == (("b",), ("a",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the end, at character 1"),
        ("tokens", "a path such as"),
        ("5", "at least one path"),
        ("$.a +", "the end, at character 6"),
        ("$.a $.b", "an operator: + - *, and not '$.b', at character 5"),
        ("$.a / $.b", "an operator: + - *, and not '/ $.b'"),
        ("2$.a", "an operator"),
        ("$.a 2", "an operator"),
        ("($.a", "a closing bracket, and not the end"),
        ("$.a)", "an operator"),
        ("+$.a", "a path such as"),
        ("$.a ** $.b", "a path such as"),
        ("1e * $.a", "an operator"),
        ("1e39 * $.a", "38"),
        ("1e-13 * $.a", "12 digits"),
        ("$.a \u2013 $.b", "an operator"),
        (".5 * $.a", "a path such as"),
        ("5. * $.a", "an operator"),
        ("1_000 * $.a", "an operator"),
        ("\u0661 * $.a", "a path such as"),
        ("$.a + $", "is not a path"),
        ("$.a\u00a0+ $.b", "an operator"),
        ("__import__('os')", "a path such as"),
        ("0.0000000000001 * $.a", "12 digits"),
        (f"{'9' * 39} * $.a", "38"),
        ("$.a + " * MAX_OPERANDS + "$.a", f"at most {MAX_OPERANDS} paths and numbers"),
        ("(" * 17 + "$.a" + ")" * 17, f"at most {MAX_NESTING} brackets"),
        ("-" * 17 + "$.a", f"at most {MAX_NESTING} brackets"),
        ("$.a" + " " * MAX_VALUE_LENGTH, f"at most {MAX_VALUE_LENGTH} characters"),
        ("(" * 500 + "$.a", f"at most {MAX_NESTING} brackets"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the reason is looked at below
        parse_value(text)
    assert reason in str(refused.value)


def test_the_longest_and_the_deepest_expression_are_read() -> None:
    assert yields("+".join(["$.a"] * MAX_OPERANDS)) == 2 * MAX_OPERANDS
    assert yields("(" * MAX_NESTING + "$.a" + ")" * MAX_NESTING) == 2


def take(text: str, data: str) -> Quantity | None:
    found = parse_data(data)
    return quantity_by(parse_value(text), lambda path: value_at(found, path))


@pytest.mark.parametrize(
    ("text", "data", "value", "rounded"),
    [
        ("$.a + $.b", '{"a": 0.1, "b": 0.2}', "0.3", False),
        ("$.a * $.b", '{"a": 1.000000000001, "b": 1.000000000001}', "1.000000000002", True),
        ("2 * $.a", '{"a": 0.0000000000005}', "0.000000000001", False),  # rounded first it would be two units
        ("$.a * $.b", '{"a": 0.0000000000005, "b": -1}', "-0.000000000001", True),
        ("$.a - $.b", f'{{"a": "{"9" * 38}", "b": {"9" * 38}}}', "0", False),
        ("$.a * $.b", '{"a": 1e37, "b": 1e-37}', "1", False),
        ("$.a * $.a * $.b * $.b", '{"a": 1e37, "b": 1e-37}', "1", False),
        ("$.a + $.b", '{"a": 1, "b": 1e-999999999}', "1", True),
        ("-$.a", '{"a": 0}', "0", False),
    ],
)
def test_arithmetic_is_exact_and_rounded_once_at_the_end(text: str, data: str, value: str, rounded: bool) -> None:
    assert take(text, data) == Quantity(Decimal(value), rounded=rounded)


@pytest.mark.parametrize("data", ["{}", '{"a": 1}', '{"a": 1, "b": null}', '{"a": {"b": 1}}', '{"b": 5}'])
def test_an_absent_operand_makes_the_value_absent(data: str) -> None:
    assert take("$.a.b + $.b" if "{" in data[1:] else "$.a + $.b", data) is None


@pytest.mark.parametrize(
    "data",
    [
        '{"a": "x", "b": 1}',
        '{"a": true, "b": 1}',
        '{"a": [1], "b": null}',  # a wrong operand is told even where another is missing
        '{"b": "NaN"}',
        '{"a": 1e38, "b": 1}',
        '{"a": 9e37, "b": 9e37}',
        f'{{"a": {"9" * 5000}, "b": 1}}',
        '{"a": 12345678901234567890123456789, "b": 0.1234567890123}',
    ],
)
def test_an_operand_or_a_result_that_is_no_number_within_the_limits_is_refused(data: str) -> None:
    with pytest.raises(Reject) as refused:
        take("$.a + $.b", data)
    assert refused.value.code == "event.invalid_value"


operands = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9)
paths = st.sampled_from(["a", "b", "c"])
trees = st.recursive(
    st.one_of(
        paths.map(lambda name: ("path", name)), st.decimals(0, 1000, places=3).map(lambda value: ("number", value))
    ),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*"]), inner, inner),
    max_leaves=6,
)


def written(tree: Any) -> str:
    match tree:
        case ("path", name):
            return f"$.{name}"
        case ("number", value):
            return f"{value:f}"
        case (operator, left, right):
            return f"({written(left)}{operator} {written(right)})"
        case _:
            raise AssertionError


def computed(tree: Any, values: dict[str, Fraction]) -> Fraction:
    match tree:
        case ("path", name):
            return values[name]
        case ("number", value):
            return Fraction(value)
        case (operator, left, right):
            a, b = computed(left, values), computed(right, values)
            return a + b if operator == "+" else a - b if operator == "-" else a * b
        case _:
            raise AssertionError


@given(tree=trees, values=st.fixed_dictionaries({"a": operands, "b": operands, "c": operands}))
def test_every_expression_yields_what_fractions_yield(tree: Any, values: dict[str, Decimal]) -> None:
    text = f"$.a - $.a + {written(tree)}"
    yielded = evaluate(parse_value(text), lambda path: values[path[0]])
    assert Fraction(yielded) == computed(tree, {name: Fraction(value) for name, value in values.items()})
