"""Arithmetic of a meter's value over columns: at once for small numbers, by the rule itself for the rest."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.fields import SCALE, Values, exact_units, units_by, values_by, with_units
from schemas.arithmetic import Expression, Node, Number, Operation, Property
from schemas.matching import quantity_by
from schemas.money import EXACT, MAX_SCALE
from schemas.paths import Path

INT64_LIMIT = 1 << 63
SCALES = (0, 3, 6, 9, MAX_SCALE)  # digits after the point that a column may have; fewer leave more room before it


class Scaled(NamedTuple):
    """`numbers` are counts of 10^-scale, none of them beyond ±`limit`."""

    numbers: NDArray[np.int64] | int
    scale: int
    limit: int


class _TooLarge(Exception):
    """Some number on the way may not fit 64 bits: nothing is computed that has not been bounded before."""


def formula_values(expression: Expression, columns: dict[Path, list[Any]]) -> Values:
    """What the expression yields in each row, as `schemas.matching.quantity_by` says."""
    operands = {path: values_by(column, exact_units) for path, column in columns.items()}
    plain = np.logical_and.reduce([operand.present for operand in operands.values()])
    whole, part = np.zeros(len(plain), np.int64), np.zeros(len(plain), np.int64)
    try:
        found = _compute(expression.root, {path: _scaled(operand, plain) for path, operand in operands.items()})
        if found.scale > MAX_SCALE:
            raise _TooLarge
        whole[:], rest = np.divmod(found.numbers, 10**found.scale)
        part[:] = rest * 10 ** (MAX_SCALE - found.scale)
    except _TooLarge:
        plain[:] = False
    return with_units(whole, part, {row: _by_rule(expression, columns, row) for row in np.flatnonzero(~plain).tolist()})


def _scaled(operand: Values, rows: NDArray[np.bool_]) -> Scaled:
    """An operand with as few digits after the point as its values need; 0 outside of these rows. Raises _TooLarge."""
    whole, part = np.where(rows, operand.whole, 0), np.where(rows, operand.part, 0)
    scale = next(scale for scale in SCALES if not (part % 10 ** (MAX_SCALE - scale)).any())
    limit = (int(np.abs(whole).max()) + 1) * 10**scale
    _check(limit)
    return Scaled(whole * 10**scale + part // (SCALE // 10**scale), scale, limit)


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
