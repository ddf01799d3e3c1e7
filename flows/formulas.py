"""Arithmetic of a meter's value over columns: at once for small whole numbers, by the rule itself for the rest."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.fields import MAX_COLUMN, MAX_WHOLE, Values, units_by, with_units
from schemas.arithmetic import Expression, Node, Number, Operation, Property
from schemas.matching import quantity_by
from schemas.money import EXACT, MAX_SCALE
from schemas.paths import Path

#: Operands up to this are computed at once; what they yield is checked to fit 64 bits before anything is computed.
MAX_OPERAND = MAX_WHOLE
INT64_LIMIT = 1 << 63


class Scaled(NamedTuple):
    """`numbers` are counts of 10^-scale, none of them beyond ±`limit`."""

    numbers: NDArray[np.int64] | int
    scale: int
    limit: int


class _TooLarge(Exception):
    """Some number on the way may not fit 64 bits."""


def formula_values(expression: Expression, columns: dict[Path, list[Any]]) -> Values:
    """What the expression yields in each row, as `schemas.matching.quantity_by` says."""
    n = len(columns[expression.paths[0]])
    assert n <= MAX_COLUMN, "a batch is bounded far below this"
    plain = np.ones(n, np.bool_)
    operands: dict[Path, Scaled] = {}
    for path, column in columns.items():
        is_plain = [type(value) is int and -MAX_OPERAND < value < MAX_OPERAND for value in column]
        plain &= is_plain
        numbers = np.array([v if ok else 0 for v, ok in zip(column, is_plain, strict=True)], np.int64)
        operands[path] = Scaled(numbers, 0, int(np.abs(numbers).max()))
    whole, part = np.zeros(n, np.int64), np.zeros(n, np.int64)
    try:
        found = _compute(expression.root, operands)
        if found.scale > MAX_SCALE:
            raise _TooLarge
        whole[:], rest = np.divmod(found.numbers, 10**found.scale)
        part[:] = rest * 10 ** (MAX_SCALE - found.scale)
    except _TooLarge:
        plain[:] = False
    return with_units(whole, part, {row: _by_rule(expression, columns, row) for row in np.flatnonzero(~plain).tolist()})


def _by_rule(expression: Expression, columns: dict[Path, list[Any]], row: int) -> int | None:
    return units_by(lambda: quantity_by(expression, lambda path: columns[path][row]))


def _compute(node: Node, operands: dict[Path, Scaled]) -> Scaled:
    """The node's value in every row. Raises _TooLarge."""
    match node:
        case Number():
            exponent = node.value.as_tuple().exponent
            assert isinstance(exponent, int), "a finite number"
            scale = max(0, -exponent)
            number = int(node.value.scaleb(scale, EXACT))
            _check(abs(number))
            return Scaled(number, scale, abs(number))
        case Property():
            return operands[node.path]
        case Operation():
            left, right = _compute(node.left, operands), _compute(node.right, operands)
            if node.operator == "*":
                limit = left.limit * right.limit
                _check(limit)
                return Scaled(left.numbers * right.numbers, left.scale + right.scale, limit)
            scale = max(left.scale, right.scale)
            left, right = _at_scale(left, scale), _at_scale(right, scale)
            _check(left.limit + right.limit)
            sign = 1 if node.operator == "+" else -1
            return Scaled(left.numbers + sign * right.numbers, scale, left.limit + right.limit)


def _at_scale(value: Scaled, scale: int) -> Scaled:
    factor = 10 ** (scale - value.scale)
    _check(value.limit * factor)
    return Scaled(value.numbers * factor, scale, value.limit * factor)


def _check(limit: int) -> None:
    if limit >= INT64_LIMIT:
        raise _TooLarge
