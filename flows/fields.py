"""Properties of many events' JSON at once: exact values and groups, as columns.

The rule is `schemas.matching`; this is its fast form for the ordinary case. Whatever is not ordinary (a value that is
no number, a very large one) is marked odd and left to the rule itself, event by event.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, Inexact, InvalidOperation
from functools import lru_cache
from itertools import compress, repeat
from operator import attrgetter, is_not
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.events import Texts
from schemas.errors import Reject
from schemas.matching import Quantity, group_text, quantity_of, value_at
from schemas.money import EXACT, MAX_SCALE
from schemas.paths import Path

KNOWN_SHAPES = 1024
LINE_END = b"\n"

#: A value is whole x SCALE + part units of 10^-12, so that sums of either need no more than 64 bits.
SCALE = 10**MAX_SCALE
MAX_WHOLE = 1 << 40  # larger values are odd: the sum of a batch of at most 2^22 events stays exact in 64 bits
MAX_COLUMN = 1 << 22

#: What a decoder raises for a text that `schemas.matching` is to look at.
UNREADABLE_JSON = (ValueError, InvalidOperation, RecursionError)


@lru_cache(maxsize=KNOWN_SHAPES)
def _decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes the top-level properties `names` into attributes f0, f1, …; None where one is missing."""
    shape = msgspec.defstruct(
        "Shape",
        [(f"f{index}", Any, None) for index in range(len(names))],
        rename={f"f{index}": name for index, name in enumerate(names)},
        gc=False,
    )
    return msgspec.json.Decoder(shape, float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class Table:
    """Decoded rows of events that share a shape. `broken` is true where the data could not be decoded."""

    rows: list[Any]
    names: tuple[str, ...]
    broken: NDArray[np.bool_]

    def column(self, path: Path) -> list[Any]:
        """What stands at the path in each row; None where nothing does."""
        values = list(map(attrgetter(f"f{self.names.index(path[0])}"), self.rows))
        if len(path) == 1:
            return values
        return [value_at(value, path[1:]) if isinstance(value, dict) else None for value in values]


def decode_rows(data: Texts, names: tuple[str, ...]) -> Table:
    """The properties `names` of every event. A row whose data is no JSON object that can be read is broken."""
    n = len(data)
    decoder = _decoder(names)
    lines = pc.call_function("binary_join", [_one_list(data), "\n"])[0].as_buffer().to_pybytes()
    if lines.count(LINE_END) != n - 1:
        # Outside of strings a line end is white space, and inside of strings JSON has none.
        return _decode_one_by_one(data, names, decoder)
    try:
        rows = decoder.decode_lines(lines)
    except UNREADABLE_JSON:
        return _decode_one_by_one(data, names, decoder)
    if len(rows) != n:
        return _decode_one_by_one(data, names, decoder)
    return Table(rows, names, np.zeros(n, np.bool_))


def _one_list(data: Texts) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, len(data)], pa.int32()), data)


def _decode_one_by_one(data: Texts, names: tuple[str, ...], decoder: msgspec.json.Decoder[Any]) -> Table:
    rows: list[Any] = []
    broken = np.zeros(len(data), np.bool_)
    nothing = decoder.decode(b"{}")
    for index, text in enumerate(data.to_pylist()):
        try:
            rows.append(decoder.decode(text))
        except UNREADABLE_JSON:
            rows.append(nothing)
            broken[index] = True
    return Table(rows, names, broken)


@dataclass(frozen=True, slots=True)
class Values:
    """Exact values of a column. `present` is false for null or nothing; `odd` rows hold no value here."""

    whole: NDArray[np.int64]
    part: NDArray[np.int64]
    present: NDArray[np.bool_]
    odd: NDArray[np.bool_]


def exact_values(column: list[Any]) -> Values:
    """The numbers of a column, rounded to 12 digits after the point as `schemas.matching.quantity_of` rounds."""
    return values_by(column, _units)


def values_by(column: list[Any], units: Callable[[Any], int | None]) -> Values:
    """The whole numbers of a column; of everything else, `units` says the units of 10^-12, None for nothing, or ODD."""
    n = len(column)
    assert n <= MAX_COLUMN, "a batch is bounded far below this"
    uncommon = compress(range(n), map(is_not, map(type, column), repeat(int)))
    others = {row: units(column[row]) for row in uncommon}
    plain = column.copy() if others else column
    for row in others:
        plain[row] = 0
    if _any_huge(plain):
        plain = [min(max(value, -MAX_WHOLE), MAX_WHOLE) for value in plain]
    return with_units(np.array(plain, np.int64), np.zeros(n, np.int64), others)


def with_units(whole: NDArray[np.int64], part: NDArray[np.int64], others: dict[int, int | None]) -> Values:
    """These values, but in the rows of `others` units of 10^-12: None for nothing, ODD. Writes into the columns."""
    present = np.ones(len(whole), np.bool_)
    odd = np.zeros(len(whole), np.bool_)
    for row, units in others.items():
        if units is None or units is ODD:
            whole[row] = part[row] = 0
            present[row] = False
            odd[row] = units is ODD
        else:
            whole[row], part[row] = divmod(units, SCALE)
    huge = (whole >= MAX_WHOLE) | (whole <= -MAX_WHOLE)
    return Values(whole, part, present & ~huge, odd | huge)


def _any_huge(values: list[int]) -> bool:
    """Whether some value does not fit 64 bits."""
    return max(values) >> 63 > 0 or min(values) >> 63 < -1


#: An `int` of its own, known by identity, that no value can be.
ODD = -(10 ** (MAX_SCALE + 20))


def _units(value: Any) -> int | None:
    """Units of 10^-12, None for null, ODD for what the ordinary case does not cover."""
    if value is None:
        return None
    units = exact_units(value)
    return units_by(lambda: quantity_of(value)) if units is None else units


def units_by(quantity: Callable[[], Quantity | None]) -> int | None:
    """Units of 10^-12 of what the rule says; None for nothing, ODD for what it refuses or columns can't hold."""
    try:
        found = quantity()
    except Reject:
        return ODD
    if found is None:
        return None
    return int(found.value.scaleb(MAX_SCALE, EXACT)) if abs(found.value) < MAX_WHOLE else ODD


def exact_units(value: Any) -> int | None:
    """Units of 10^-12 of a decimal of ordinary size that needs no rounding; None for any other value."""
    if type(value) is not Decimal or not -20 < value.adjusted() < 12:
        return None
    try:
        scaled = value.scaleb(MAX_SCALE, EXACT)
    except Inexact:  # more digits than EXACT holds
        return None
    units = int(scaled)
    return units if units == scaled else None


@dataclass(frozen=True, slots=True)
class Codes:
    """A column as codes of its distinct JSON values."""

    codes: NDArray[np.int64]
    distinct: list[Any]


def coded(column: list[Any]) -> Codes:
    """Each row's value as an index into the distinct ones. Values of different JSON kinds are different values."""
    if set(map(type, column)) <= {str, type(None)}:
        encoded = pa.array(column, pa.string()).dictionary_encode(null_encoding="encode")
        return Codes(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())
    known: dict[tuple[type, Any], int] = {}
    distinct: list[Any] = []
    codes = np.empty(len(column), np.int64)
    for row, value in enumerate(column):
        key = (type(value), value if isinstance(value, str | int | Decimal | None) else group_text(value))
        code = known.setdefault(key, len(distinct))
        if code == len(distinct):
            distinct.append(value)
        codes[row] = code
    return Codes(codes, distinct)
