"""The ordinary events of one kind judged by columns: the rule of `schemas.matching` for thousands at a time.

What is not ordinary in a row (data that can't be read, a value that is no number or a very large one) is left to the
rule itself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flows.attributed import Attributed, Contribution, Status
from flows.events import Rows
from flows.fields import Codes, Table, Values, coded, decode_rows, exact_values
from flows.formulas import formula_values
from schemas.arithmetic import parse_value
from schemas.catalogue import MeterEntry
from schemas.filters import passes
from schemas.matching import group_text
from schemas.meters import Aggregation
from schemas.paths import Path, parse_path


def judge_columns(judged: Attributed, rows: Rows, meters: Sequence[MeterEntry]) -> Rows:
    """Judge these events, all of one kind, and give back the odd ones: nothing is decided about them yet."""
    paths = {path for meter in meters for path in _paths(meter)}
    table = decode_rows(judged.events.data.take(rows), tuple(sorted({path[0] for path in paths})))
    columns = _Columns(judged, table)
    odd = table.broken.copy()
    passing: list[NDArray[np.bool_]] = []
    for meter in meters:
        mask = ~table.broken
        for rule in meter.filters:
            column = columns.codes(parse_path(rule.property))
            mask &= np.array([passes(rule, value) for value in column.distinct], np.bool_)[column.codes]
        passing.append(mask)
        odd |= mask & columns.values(meter).odd
    for meter, mask in zip(meters, passing, strict=True):
        matched = mask & ~odd
        judged.status[rows[matched]] = Status.COUNTED
        found = columns.values(meter)
        taken = np.flatnonzero(matched & found.present)
        if len(taken):
            texts = columns.texts(parse_value(meter.value).paths[0]) if _is_unique(meter) and meter.value else None
            judged.contributions.append(
                Contribution(
                    meter=meter,
                    rows=rows[taken],
                    whole=found.whole[taken],
                    part=found.part[taken],
                    groups=[columns.texts((name,))[taken] for name in meter.group_by],
                    texts=None if texts is None else texts[taken],
                )
            )
    return rows[odd]


def _is_unique(meter: MeterEntry) -> bool:
    return meter.aggregation is Aggregation.UNIQUE_COUNT


def _paths(meter: MeterEntry) -> set[Path]:
    """All places in the data that the meter looks at."""
    found = {parse_path(rule.property) for rule in meter.filters} | {(name,) for name in meter.group_by}
    return found if meter.value is None else found | set(parse_value(meter.value).paths)


class _Columns:
    """Columns of a table, each made once."""

    def __init__(self, judged: Attributed, table: Table) -> None:
        self._judged = judged
        self._table = table
        self._codes: dict[Path, Codes] = {}
        self._texts: dict[Path, NDArray[np.int64]] = {}
        self._values: dict[tuple[bool, str | None], Values] = {}

    def codes(self, path: Path) -> Codes:
        """The column as codes of its distinct values."""
        if path not in self._codes:
            self._codes[path] = coded(self._table.column(path))
        return self._codes[path]

    def texts(self, path: Path) -> NDArray[np.int64]:
        """The column as codes of `judged.texts`."""
        if path not in self._texts:
            column = self.codes(path)
            names = [self._judged.text_code(group_text(value)) for value in column.distinct]
            self._texts[path] = np.array(names, np.int64)[column.codes]
        return self._texts[path]

    def values(self, meter: MeterEntry) -> Values:
        """What each row gives the meter, should it match."""
        key = (_is_unique(meter), meter.value)
        if key not in self._values:
            self._values[key] = self._made(meter)
        return self._values[key]

    def _made(self, meter: MeterEntry) -> Values:
        n = len(self._table.rows)
        zeros, no = np.zeros(n, np.int64), np.zeros(n, np.bool_)
        if meter.value is None:
            return Values(np.ones(n, np.int64), zeros, ~no, no)
        expression = parse_value(meter.value)
        if _is_unique(meter):
            column = self.codes(expression.paths[0])
            there = np.array([value is not None for value in column.distinct], np.bool_)[column.codes]
            return Values(zeros, zeros, there, no)
        if expression.path is not None:
            return exact_values(self._table.column(expression.path))
        return formula_values(expression, {path: self._table.column(path) for path in expression.paths})
