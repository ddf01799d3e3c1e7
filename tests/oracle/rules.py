"""What a meter takes from one event's data, said once more in plain Python: numbers, arithmetic, filters, groups.

Nothing of the product is imported here or beside: an oracle that shares code with what it judges shares its mistakes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

DIGITS_AFTER_POINT = 12
MAX_DIGITS = 38
PLACES = Decimal(1).scaleb(-DIGITS_AFTER_POINT)
#: Room for every product and sum of what tests send; nothing is rounded before the end.
WIDE = Context(prec=400, rounding=ROUND_HALF_UP)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class NotANumber(Exception):
    """A value that is there and is no number: the whole event is quarantined."""


@dataclass(frozen=True)
class Path:
    """`$.a.b` is Path("a", "b")."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "$" + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True)
class Number:
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Operation:
    """`operator` is one of + - *."""

    operator: str
    left: "Expression"
    right: "Expression"

    def __str__(self) -> str:
        return f"({self.left} {self.operator} {self.right})"


Expression = Path | Number | Operation


@dataclass(frozen=True)
class Filter:
    """`values` are strings, booleans, and numbers as Decimal."""

    path: Path
    op: str
    values: tuple[str | bool | Decimal, ...]


@dataclass(frozen=True)
class Meter:
    key: str
    event_type: str
    aggregation: str
    value: Expression | None = None
    filters: tuple[Filter, ...] = ()
    group_by: tuple[str, ...] = ()


def read(text: str) -> dict[str, Any]:
    """An event's data: strings, booleans, null, lists, objects, and every number as Decimal."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def at(data: Any, path: Path) -> Any:
    """What stands at the path; None when nothing does."""
    for name in path.names:
        if not isinstance(data, dict):
            return None
        data = data.get(name)
    return data


def rounded(number: Decimal) -> Decimal:
    """With 12 digits after the point at most, half away from zero."""
    return number.quantize(PLACES, ROUND_HALF_UP, WIDE) if number.as_tuple().exponent < -DIGITS_AFTER_POINT else number  # pyright: ignore[reportOperatorIssue]


def exact(value: Any) -> Decimal | None:
    """A number, or a string that is one, as it stands; None for null or nothing. Raises NotANumber."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if not isinstance(value, Decimal | None):
        raise NotANumber(repr(value))
    if value and value.adjusted() >= MAX_DIGITS:
        raise NotANumber(f"{value} has more than {MAX_DIGITS} digits before the point")
    return value


def number(value: Decimal) -> Decimal:
    """The quantity that a number stands for. Raises NotANumber for one that no quantity can be."""
    quantity = rounded(value)
    if len(format(quantity.normalize(WIDE), "f").lstrip("-0.").replace(".", "")) > MAX_DIGITS:
        raise NotANumber(f"{value} has more than {MAX_DIGITS} digits")
    return quantity


def evaluate(expression: Expression, data: dict[str, Any]) -> Decimal | None:
    """The value of arithmetic over an event's data: nothing when an operand is absent. Raises NotANumber."""
    found = _evaluate(expression, data)
    return None if found is None else number(found)


def _evaluate(expression: Expression, data: dict[str, Any]) -> Decimal | None:
    match expression:
        case Path():
            return exact(at(data, expression))
        case Number(text):
            return Decimal(text)
        case Operation(operator, left_side, right_side):
            left, right = _evaluate(left_side, data), _evaluate(right_side, data)
            if left is None or right is None:
                return None
            return {"+": WIDE.add, "-": WIDE.subtract, "*": WIDE.multiply}[operator](left, right)


def text_of(value: Any) -> str | None:
    """The one text of a group or of a unique thing: 1, 1.0 and "1" are one. None for null or nothing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        plain = format(value, "f")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return "0" if not value else plain
    return json.dumps(value, separators=(",", ":"), default=str)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return type(left) is type(right) and left == right


def _compares(op: str, left: Any, right: Any) -> bool:
    """Two numbers or two strings, else no."""
    if type(left) is not type(right) or not isinstance(left, Decimal | str):
        return False
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[op]


def passes(rule: Filter, data: dict[str, Any]) -> bool:
    found = at(data, rule.path)
    is_one = any(_same(found, value) for value in rule.values)
    match rule.op:
        case "eq" | "in":
            return is_one
        case "ne" | "not_in":
            return not is_one
        case "exists":
            return (found is not None) is (rule.values[0] if rule.values else True)
        case op:
            return _compares(op, found, rule.values[0])


def matches(meter: Meter, event_type: str, data: dict[str, Any]) -> bool:
    return meter.event_type == event_type and all(passes(rule, data) for rule in meter.filters)


Group = tuple[str | None, ...]


@dataclass(frozen=True)
class Taken:
    """What a meter took from an event: a number, or of unique_count a text."""

    group: Group
    value: Decimal
    text: str = ""


def take(meter: Meter, event_type: str, data: dict[str, Any]) -> Taken | None:
    """None when the meter takes nothing. Raises NotANumber."""
    if not matches(meter, event_type, data):
        return None
    group = tuple(text_of(data.get(name)) for name in meter.group_by)
    if meter.aggregation == "count":
        return Taken(group, Decimal(1))
    assert meter.value is not None
    if meter.aggregation == "unique_count":
        assert isinstance(meter.value, Path)
        text = text_of(at(data, meter.value))
        return None if text is None else Taken(group, Decimal(0), text)
    value = evaluate(meter.value, data)
    return None if value is None else Taken(group, value)


def total(values: Sequence[Decimal]) -> Decimal:
    found = Decimal(0)
    for value in values:
        found = WIDE.add(found, value)
    return found
