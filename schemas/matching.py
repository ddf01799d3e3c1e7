"""What a meter takes from one event's data: whether it matches, its exact value, its group.

Pure functions of a meter and the event's JSON. The usage flow judges every event by them, a query evaluates the few
events at the edges of its range by them, and `explain` shows a user what they say: one rule, wherever it is asked.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

import msgspec

from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.meters import Aggregation, Filter, FilterOperator
from schemas.money import CONTEXT, MAX_DIGITS, MAX_SCALE, MAX_TEXT, format_decimal, round_half_away
from schemas.paths import parse_path

INVALID_VALUE = "event.invalid_value"
INVALID_DATA = "event.invalid_data"

#: Operators that this release can judge; the others are refused when a meter is made.
SUPPORTED_OPERATORS = frozenset({FilterOperator.EQ, FilterOperator.IN})

ONE = Decimal(1)
_LIMIT = 10**MAX_DIGITS
_REMEMBERED = 4096

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: Numbers with a point or an exponent come as Decimal, straight from their text; the others as int.
_value_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact value within the limits of quantities. `rounded`: it had more than 12 digits after the point."""

    value: Decimal
    rounded: bool = False


class Unreadable:
    """A property that is JSON by its grammar and still holds no value: an integer of thousands of digits, half of a
    surrogate pair, an exponent beyond all bounds. It spoils what needs it, and nothing else."""


UNREADABLE = Unreadable()


def parse_data(data: str | bytes) -> dict[str, object]:
    """An event's data with exact numbers. Raises Reject `event.invalid_data` when it is no JSON object."""
    try:
        properties = _object_decoder.decode(data)
    except ValueError as error:
        raise Reject(INVALID_DATA, f"data is not a JSON object: {error}") from None
    return {name: _parse_value(raw) for name, raw in properties.items()}


def _parse_value(raw: msgspec.Raw) -> object:
    try:
        return _value_decoder.decode(raw)
    except (ValueError, InvalidOperation):
        return UNREADABLE


def literal_text(value: str | bool | int | Decimal) -> str:
    """The JSON text of a filter's value, as `Filter.values` holds it."""
    return _encoder.encode(value).decode()


@lru_cache(maxsize=_REMEMBERED)
def path_of(text: str) -> tuple[str, ...]:
    """`parse_path`, remembered: the paths of meters come again with every event."""
    return parse_path(text)


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


def quantity_of(value: object) -> Quantity | None:
    """The exact number that a JSON value stands for; None for null or nothing. A numeric string is a number.

    More than 12 digits after the point are rounded to 12, half away from zero. Raises Reject `event.invalid_value`
    for anything that is no number, or one of more than 38 significant digits.
    """
    if value is None:
        return None
    if type(value) is int:
        if -_LIMIT < value < _LIMIT:
            return Quantity(Decimal(value))
        raise _invalid("a number of more than 38 digits")
    number = value if type(value) is Decimal else _number_of_text(value)
    if not number:
        return Quantity(Decimal(0))
    if not number.is_finite() or number.adjusted() >= MAX_DIGITS:
        raise _invalid("a number beyond 38 digits")
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    rounded = round_half_away(number, MAX_SCALE) if exponent < -MAX_SCALE else number
    if len(rounded.normalize(CONTEXT).as_tuple().digits) > MAX_DIGITS:
        raise _invalid("a number of more than 38 significant digits")
    return Quantity(rounded, rounded=rounded != number)


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


@lru_cache(maxsize=_REMEMBERED)
def _literal(text: str) -> object:
    return _value_decoder.decode(text)


def is_one_of(value: object, literals: tuple[str, ...]) -> bool:
    """Whether a JSON value equals one of the literals. Numbers compare as numbers; nothing else crosses kinds."""
    return any(_same(value, _literal(text)) for text in literals)


def _same(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    numbers = (int, Decimal)
    if isinstance(left, numbers) and isinstance(right, numbers):
        return left == right
    return isinstance(left, str) and isinstance(right, str) and left == right


def passes(rule: Filter, value: object) -> bool:
    """Whether one filter lets through the value found at its property. A missing or null value never passes."""
    if rule.op not in SUPPORTED_OPERATORS:
        raise Reject("meter.unsupported_filter", f"filter operator {rule.op} is not supported yet")
    return is_one_of(value, rule.values)


def matches(meter: MeterEntry, data: dict[str, object]) -> bool:
    """Whether every filter of the meter lets the data through. The event's type is the caller's to compare."""
    return all(passes(rule, value_at(data, path_of(rule.property))) for rule in meter.filters)


def event_quantity(meter: MeterEntry, data: dict[str, object]) -> Quantity | None:
    """What a matching event adds to the meter: 1 for a count, else the number at its value path.

    None when the value is absent or null: the meter takes nothing from the event. Raises Reject
    `event.invalid_value` for a value that is there and is no number.
    """
    if meter.aggregation is Aggregation.COUNT:
        return Quantity(ONE)
    assert meter.value is not None, "only a count meter has no value"
    return quantity_of(value_at(data, path_of(meter.value)))


def event_value(meter: MeterEntry, data: dict[str, object]) -> Decimal | None:
    """`event_quantity` without saying whether it was rounded."""
    quantity = event_quantity(meter, data)
    return None if quantity is None else quantity.value


def group_text(value: object) -> str:
    """A group's value as windows hold it: `=` and the text; the empty string for a missing or null property.

    A string stands for itself, a number for its plain decimal form (1, 1.0 and 1e0 are one group), anything else for
    its JSON text. Raises Reject `event.invalid_value` for what can't be read.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return "=" + value
    if value is UNREADABLE:
        raise _invalid("grouped by a property that can't be read")
    if isinstance(value, Decimal) and (not value or abs(value.adjusted()) < MAX_TEXT):
        return "=" + format_decimal(value)
    return "=" + _encoder.encode(value).decode()


def event_groups(meter: MeterEntry, data: dict[str, object]) -> tuple[str, ...]:
    """The group of an event, in the order of the meter's `group_by`."""
    return tuple(group_text(data.get(name)) for name in meter.group_by)
