"""What a meter takes from one event's data: whether it matches, its exact value, its group.

Pure functions of a meter and the event's JSON. The usage flow judges every event by them, a query evaluates the few
events at the edges of its range by them, and `explain` shows a user what they say: one rule, wherever it is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation

import msgspec

from schemas.arithmetic import MAX_OPERAND_SCALE, Expression, evaluate, parse_value
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.filters import passes
from schemas.meters import Aggregation
from schemas.money import CONTEXT, MAX_DIGITS, MAX_SCALE, MAX_TEXT, ROUNDING, format_decimal, round_half_away
from schemas.paths import MAX_PATH_DEPTH, Path, parse_path

INVALID_VALUE = "event.invalid_value"
INVALID_DATA = "event.invalid_data"

ZERO = Decimal(0)
ONE = Decimal(1)
_LIMIT = 10**MAX_DIGITS
_LONGEST = 10**MAX_TEXT
_OPERAND_STEP = Decimal((0, (1,), -MAX_OPERAND_SCALE))
_WIDEST = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)  # takes off trailing zeros and nothing else


def _refuse(value: object) -> object:
    del value
    raise _invalid("something that holds what can't be read")


_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: Numbers with a point or an exponent come as Decimal, straight from their text; the others as int.
_value_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=_refuse)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact value within the limits of quantities. `rounded`: it had more than 12 digits after the point."""

    value: Decimal
    rounded: bool = False


class Unreadable:
    """A property that is JSON by its grammar and still holds no value: an integer of thousands of digits, an exponent
    beyond all bounds. It spoils a value and a group that need it, and nothing else; see `filters.passes`."""


UNREADABLE = Unreadable()


def parse_data(data: str | bytes) -> dict[str, object]:
    """An event's data with exact numbers. Raises Reject `event.invalid_data` when it is no JSON object."""
    try:
        properties = _object_decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise Reject(INVALID_DATA, f"data is not a JSON object: {error}") from None
    return {name: _parse_value(raw, 1) for name, raw in properties.items()}


def _parse_value(raw: msgspec.Raw, depth: int) -> object:
    """The value of a property that stands `depth` names deep."""
    try:
        return _value_decoder.decode(raw)
    except (ValueError, InvalidOperation, RecursionError):
        pass
    if depth == MAX_PATH_DEPTH:
        return UNREADABLE
    try:
        properties = _object_decoder.decode(raw)
    except (ValueError, RecursionError):
        return UNREADABLE
    return {name: _parse_value(value, depth + 1) for name, value in properties.items()}


def value_at(data: dict[str, object], path: tuple[str, ...]) -> object:
    """What stands at the path; None when any name on the way is missing or leads through something without names."""
    found: object = data
    for name in path:
        if found is UNREADABLE:
            return found
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def number_of(value: object) -> Decimal | None:
    """The exact number that a JSON value stands for; None for null or nothing. A numeric string is a number.

    Raises Reject `event.invalid_value` for anything that is no number, or one of more than 38 digits before the point.
    """
    if value is None:
        return None
    if type(value) is int:
        if -_LIMIT < value < _LIMIT:
            return Decimal(value)
        raise _invalid("a number of more than 38 digits")
    number = value if type(value) is Decimal else _number_of_text(value)
    if not number:
        return ZERO
    if not number.is_finite() or number.adjusted() >= MAX_DIGITS:
        raise _invalid("a number beyond 38 digits")
    return number


def quantity_of(value: object) -> Quantity | None:
    """The quantity that a JSON value stands for, as `number_of` reads it.

    More than 12 digits after the point are rounded to 12, half away from zero. Raises Reject `event.invalid_value`
    for anything that is no number, or one of more than 38 significant digits.
    """
    number = number_of(value)
    return None if number is None else _within_limits(number)


def _within_limits(number: Decimal) -> Quantity:
    if not number:
        return Quantity(ZERO)
    if number.adjusted() >= MAX_DIGITS:
        raise _invalid("a number beyond 38 digits")
    rounded = round_half_away(number, MAX_SCALE) if _scale(number) > MAX_SCALE else number
    if len(rounded.normalize(CONTEXT).as_tuple().digits) > MAX_DIGITS:
        raise _invalid("a number of more than 38 significant digits")
    return Quantity(rounded, rounded=rounded != number)


def _operand(number: Decimal) -> Decimal:
    """The number with no more digits after the point than arithmetic takes, ties away from zero."""
    return number.quantize(_OPERAND_STEP, context=ROUNDING) if _scale(number) > MAX_OPERAND_SCALE else number


def _scale(number: Decimal) -> int:
    """Digits after the point; below zero for zeros before it that are not written out."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "a finite number"
    return -exponent


def _number_of_text(value: object) -> Decimal:
    if not isinstance(value, str):
        raise _invalid("neither a number nor a numeric string")
    if len(value) > MAX_TEXT or not value.isascii() or "_" in value or value != value.strip():
        raise _invalid("a string that is not a number")
    try:
        return Decimal(value)
    except InvalidOperation:
        raise _invalid("a string that is not a number") from None


def _invalid(what: str) -> Reject:
    return Reject(INVALID_VALUE, f"the meter's value is {what}")


def matches(meter: MeterEntry, data: dict[str, object]) -> bool:
    """Whether every filter of the meter lets the data through. The event's type is the caller's to compare."""
    return all(passes(rule, value_at(data, parse_path(rule.property))) for rule in meter.filters)


def event_quantity(meter: MeterEntry, data: dict[str, object]) -> Quantity | None:
    """What a matching event gives the meter: 1 to a count, else the number that its value says.

    None when the value is absent or null (of arithmetic: any operand), so the meter takes nothing from the event.
    A unique count takes any value that is there: its quantity is 0, and what it counts is `event_text`. Raises Reject
    `event.invalid_value` for a value, or an operand, that is there and is no number.
    """
    if meter.aggregation is Aggregation.COUNT:
        return Quantity(ONE)
    assert meter.value is not None, "only a count meter has no value"
    expression = parse_value(meter.value)
    if meter.aggregation is Aggregation.UNIQUE_COUNT:
        return Quantity(ZERO) if event_text(meter, data) else None
    if expression.path is not None:
        return quantity_of(value_at(data, expression.path))
    return quantity_by(expression, lambda path: value_at(data, path))


def quantity_by(expression: Expression, value: Callable[[Path], object]) -> Quantity | None:
    """What arithmetic yields with these JSON values at its paths, rounded once at the end; see `event_quantity`.

    Of an operand only 38 digits after the point are looked at, so that a tiny exponent can't fill the memory.
    """
    numbers = {path: number_of(value(path)) for path in expression.paths}
    operands = {path: _operand(number) for path, number in numbers.items() if number is not None}
    if len(operands) < len(numbers):
        return None
    quantity = _within_limits(evaluate(expression, operands.__getitem__))
    return replace(quantity, rounded=quantity.rounded or operands != numbers)


def event_value(meter: MeterEntry, data: dict[str, object]) -> Decimal | None:
    """`event_quantity` without saying whether it was rounded."""
    quantity = event_quantity(meter, data)
    return None if quantity is None else quantity.value


def group_text(value: object) -> str:
    """A group's value as windows hold it: `=` and the text; the empty string for a missing or null property.

    A string stands for itself, a number for its plain decimal form (1, 1.0 and 1e0 are one group), or with an exponent
    where that is longer than 128 digits; anything else for its JSON text. Raises Reject `event.invalid_value` for what
    can't be read.
    """
    match value:
        case None:
            return ""
        case str():
            return "=" + value
        case int() if -_LONGEST < value < _LONGEST:  # true and false too
            return "=" + _encoder.encode(value).decode()
        case int() | Decimal():
            number = Decimal(value).normalize(_WIDEST)
            return "=" + (format_decimal(number) if abs(number.adjusted()) < MAX_TEXT else str(number))
        case _:
            return "=" + _encoder.encode(value).decode()


def event_text(meter: MeterEntry, data: dict[str, object]) -> str:
    """What a unique count counts of a matching event, in the form of a group's value: 1, 1.0 and "1" are one.

    Empty for nothing or null, and for every other aggregation. Raises Reject `event.invalid_value` for what can't be
    read.
    """
    if meter.aggregation is not Aggregation.UNIQUE_COUNT:
        return ""
    assert meter.value is not None, "only a count meter has no value"
    path = parse_value(meter.value).path
    assert path is not None, "a unique count counts what stands at a path"
    return group_text(value_at(data, path))


def event_groups(meter: MeterEntry, data: dict[str, object]) -> tuple[str, ...]:
    """The group of an event, in the order of the meter's `group_by`."""
    return tuple(group_text(data.get(name)) for name in meter.group_by)
