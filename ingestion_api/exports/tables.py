"""The columns of an export, and how their values stand in each format. No number is ever a float."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias

import pyarrow as pa

from schemas.instants import format_instant
from schemas.money import format_decimal

#: As many digits as both Parquet's readers and decimals of 128 bits have.
PARQUET_DIGITS = 38
AMOUNT_SCALE = 4  # no currency of ISO 4217 has more
NUMBER_SCALE = 12

#: What a spreadsheet takes for the beginning of a formula, also in the full width forms of East Asian keyboards.
FORMULA_STARTS = frozenset("=+-@＝＋－＠")
FORMULA_BREAKS = frozenset("\t\r\n")
QUOTE = "'"


class Kind(Enum):
    """What a column holds. An AMOUNT has all digits of its currency, a NUMBER as few as it needs."""

    TEXT = pa.string()
    INSTANT = pa.timestamp("us", "UTC")
    AMOUNT = pa.decimal128(PARQUET_DIGITS, AMOUNT_SCALE)
    NUMBER = pa.decimal128(PARQUET_DIGITS, NUMBER_SCALE)
    COUNT = pa.int64()


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a value of None is null, which a column that `is_required` never has."""

    name: str
    kind: Kind
    is_required: bool = False


Columns: TypeAlias = Sequence[Column]
#: Values in the order of the columns: str, aware datetime, Decimal, int or None.
Values: TypeAlias = tuple[Any, ...]


def arrow_schema(columns: Columns) -> Any:
    """The columns as a pyarrow.Schema; pyarrow publishes no types."""
    return pa.schema([pa.field(each.name, each.kind.value, nullable=not each.is_required) for each in columns])


def csv_cell(kind: Kind, value: Any) -> str:
    """A value as text; null is the empty text. See `guard` for texts."""
    if value is None:
        return ""
    match kind:
        case Kind.TEXT:
            return guard(value)
        case Kind.INSTANT:
            assert isinstance(value, datetime)
            return format_instant(value)
        case Kind.AMOUNT:
            assert isinstance(value, Decimal)
            return format(value, "f")
        case Kind.NUMBER:
            return format_decimal(value)
        case Kind.COUNT:
            return str(value)


def guard(text: str) -> str:
    """Text that no spreadsheet runs: one that would begin a formula gets an apostrophe before it.

    So does one that begins with an apostrophe, so that taking one away always gives what was there.
    """
    begins_formula = text.lstrip()[:1] in FORMULA_STARTS or text[:1] in FORMULA_BREAKS or text.startswith(QUOTE)
    return QUOTE + text if text and begins_formula else text
