"""Whether one filter of a meter lets through the value that an event has at its property.

A missing property and null are the same: nothing is there. `ne` and `not_in` say the opposite of `eq` and `in`, so
nothing passes them too. Two numbers compare as numbers, exactly; nothing else crosses kinds: 1 is never "1".
"""

from decimal import Decimal
from functools import lru_cache

import msgspec

from schemas.meters import Filter, FilterOperator

_REMEMBERED = 4096

_value_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def literal_text(value: str | bool | int | Decimal) -> str:
    """The JSON text of a filter's value, as `Filter.values` holds it."""
    return _encoder.encode(value).decode()


@lru_cache(maxsize=_REMEMBERED)
def _literal(text: str) -> object:
    return _value_decoder.decode(text)


def passes(rule: Filter, value: object) -> bool:
    """Whether the filter lets the value through; None stands for null and for nothing.

    A value that can't be read (`matching.UNREADABLE`) is there, equals nothing, and is neither more nor less than
    anything: which is true of it, since no literal of a filter is like that.
    """
    match rule.op:
        case FilterOperator.EQ | FilterOperator.IN:
            return is_one_of(value, rule.values)
        case FilterOperator.NE | FilterOperator.NOT_IN:
            return not is_one_of(value, rule.values)
        case FilterOperator.EXISTS:
            return (value is not None) is _literal(rule.values[0])
        case FilterOperator.GT | FilterOperator.GTE | FilterOperator.LT | FilterOperator.LTE:
            order = _order(value, _literal(rule.values[0]))
            return order is not None and order in _PASSING[rule.op]


def is_one_of(value: object, literals: tuple[str, ...]) -> bool:
    """Whether a JSON value equals one of the literals. Numbers compare as numbers; nothing else crosses kinds."""
    return any(_same(value, _literal(text)) for text in literals)


def _same(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return _order(left, right) == 0


#: By operator: how the value may stand to the literal (-1 less, 0 equal, 1 more).
_PASSING = {
    FilterOperator.GT: (1,),
    FilterOperator.GTE: (0, 1),
    FilterOperator.LT: (-1,),
    FilterOperator.LTE: (-1, 0),
}


def _order(left: object, right: object) -> int | None:
    """-1, 0 or 1 of two numbers, or of two strings by their code points; None of anything else."""
    if isinstance(left, bool) or isinstance(right, bool):
        return None
    if isinstance(left, int | Decimal) and isinstance(right, int | Decimal):
        return (left > right) - (left < right)
    if isinstance(left, str) and isinstance(right, str):
        return (left > right) - (left < right)
    return None
