"""The value of a meter as arithmetic over paths: `$.input_tokens + 3 * $.output_tokens`.

    sum      = product { ("+" | "-") product }
    product  = factor { "*" factor }
    factor   = "-" factor | "(" sum ")" | number | path
    number   = digits [ "." digits ] [ ("e" | "E") [ "+" | "-" ] digits ]

The minus sign may be U+2212 wherever it stands. White space may stand between any two of these. There is no division:
a quotient is seldom exact. What an expression yields is exact; nothing is rounded on the way.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import lru_cache
from typing import Literal

from schemas.money import MAX_DIGITS, format_decimal, parse_decimal
from schemas.paths import Path, read_path

MAX_VALUE_LENGTH = 512  # characters
MAX_OPERANDS = 16  # paths and numbers, each as often as it stands there
MAX_NESTING = 16  # brackets and minus signs inside each other

#: Digits after the point that an operand may have: with as many before it, no product of all operands fills EXACT.
MAX_OPERAND_SCALE = MAX_DIGITS
_EXACT = Context(
    prec=(MAX_OPERANDS + 1) * (MAX_DIGITS + MAX_OPERAND_SCALE),
    rounding=ROUND_HALF_UP,
    traps=[InvalidOperation, Overflow, Inexact],
)
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal


@dataclass(frozen=True, slots=True)
class Property:
    path: Path


@dataclass(frozen=True, slots=True)
class Operation:
    operator: Literal["+", "-", "*"]
    left: "Node"
    right: "Node"


Node = Number | Property | Operation


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed value. `paths` are those that stand in it, each once, in the order of their first places."""

    root: Node
    paths: tuple[Path, ...]

    @property
    def path(self) -> Path | None:
        """The path that the expression is, with nothing around it; None for arithmetic."""
        return self.root.path if isinstance(self.root, Property) else None


@lru_cache(maxsize=_REMEMBERED)
def parse_value(text: str) -> Expression:
    """The expression that a meter's value is; remembered, since it comes again with every event.

    Raises ValueError, with a sentence for the person who wrote it.
    """
    if len(text) > MAX_VALUE_LENGTH:
        raise ValueError(f"a value has at most {MAX_VALUE_LENGTH} characters")
    parser = _Parser(text)
    root = parser.read()
    if not parser.paths:
        raise ValueError("a value needs at least one path such as $.tokens")
    return Expression(root, tuple(parser.paths))


def evaluate(expression: Expression, operand: Callable[[Path], Decimal]) -> Decimal:
    """What the expression yields, exactly. `operand` gives a number below 10^38 with at most 38 digits after the point
    for each of its paths."""
    return _evaluate(expression.root, {path: operand(path) for path in expression.paths})


def _evaluate(node: Node, operands: dict[Path, Decimal]) -> Decimal:
    match node:
        case Number():
            return node.value
        case Property():
            return operands[node.path]
        case Operation():
            left, right = _evaluate(node.left, operands), _evaluate(node.right, operands)
            match node.operator:
                case "+":
                    return _EXACT.add(left, right)
                case "-":
                    return _EXACT.subtract(left, right)
                case "*":
                    return _EXACT.multiply(left, right)


_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+\u2212-]?[0-9]+)?")
_MINUS = ("-", "\u2212")


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._operands = 0
        self.paths: dict[Path, None] = {}

    def read(self) -> Node:
        node = self._sum(0)
        if self._position < len(self._text):
            raise self._unexpected("an operator: + - *")
        return node

    def _sum(self, depth: int) -> Node:
        node = self._product(depth)
        while operator := self._take("+", *_MINUS):
            node = Operation("+" if operator == "+" else "-", node, self._product(depth))
        return node

    def _product(self, depth: int) -> Node:
        node = self._factor(depth)
        while self._take("*"):
            node = Operation("*", node, self._factor(depth))
        return node

    def _factor(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            raise ValueError(f"a value has at most {MAX_NESTING} brackets and minus signs inside each other")
        if self._take(*_MINUS):
            return Operation("-", Number(Decimal(0)), self._factor(depth + 1))
        if self._take("("):
            node = self._sum(depth + 1)
            if not self._take(")"):
                raise self._unexpected("a closing bracket")
            return node
        self._operands += 1
        if self._operands > MAX_OPERANDS:
            raise ValueError(f"a value has at most {MAX_OPERANDS} paths and numbers")
        return self._number() or self._path()

    def _number(self) -> Number | None:
        found = _NUMBER.match(self._text, self._position)
        if found is None:
            return None
        self._position = found.end()
        self._skip_space()
        number = parse_decimal(found[0].replace("\u2212", "-"))
        return Number(Decimal(format_decimal(number)))  # 1e3 is 1000 to whoever computes with it

    def _path(self) -> Property:
        if not self._text.startswith("$", self._position):
            raise self._unexpected("a path such as $.tokens, a number or a bracket")
        path, self._position = read_path(self._text, self._position)
        self._skip_space()
        self.paths[path] = None
        return Property(path)

    def _take(self, *symbols: str) -> str | None:
        """The next symbol, if it is one of these; then it is read."""
        self._skip_space()
        if not self._text.startswith(symbols, self._position):
            return None
        self._position += 1
        symbol = self._text[self._position - 1]
        self._skip_space()
        return symbol

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._position)
        assert found is not None, "it matches the empty text"
        self._position = found.end()

    def _unexpected(self, expected: str) -> ValueError:
        rest = self._text[self._position :]
        there = f"{rest[:20]!r}" if rest else "the end"
        return ValueError(f"there should be {expected}, and not {there}, at character {self._position + 1}")
