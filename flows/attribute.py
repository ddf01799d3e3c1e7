"""Whose each event is, which meters take it, and what they take: by the catalogue of the batch.

Every event ends in one state. `quarantined`: its subject is unknown, its data can't be read, or a value that a meter
needs is no number. `unmatched`: no meter takes it. `counted`: at least one does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.catalogue import Catalogue
from flows.events import Events, Kind, Rows
from flows.fields import MAX_WHOLE, SCALE, Path, Table, Values, coded, decode_rows, exact_values
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.filters import passes
from schemas.matching import event_groups, event_value, group_text, matches, parse_data
from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE
from schemas.paths import parse_path

UNKNOWN_SUBJECT = "event.unknown_subject"

#: Below this many events of one kind, judging them one by one costs less than making columns of them.
FEW_EVENTS = 48


class Status(IntEnum):
    """As the enumeration of the events table."""

    COUNTED = 1
    UNMATCHED = 2
    QUARANTINED = 3
    VOIDED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one meter takes from some rows of a batch: `whole` x 10^12 + `part` units of 10^-12 from each.

    `groups` has one column of codes a property of the meter's `group_by`; they index `Attributed.texts`.
    """

    meter: MeterEntry
    rows: Rows
    whole: NDArray[np.int64]
    part: NDArray[np.int64]
    groups: list[NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Giant:
    """One value too large for the columns above, in units of 10^-12."""

    meter: MeterEntry
    row: int
    units: int
    groups: tuple[int, ...]


@dataclass(slots=True)
class Attributed:
    """A batch of first copies, judged. `texts` are the group values that codes of contributions stand for."""

    events: Events
    customers: NDArray[np.uint64]  # 0: unknown
    status: NDArray[np.int8]
    codes: dict[int, str] = field(default_factory=dict[int, str])  # by row, of quarantined events
    contributions: list[Contribution] = field(default_factory=list[Contribution])
    giants: list[Giant] = field(default_factory=list[Giant])
    texts: dict[str, int] = field(default_factory=dict[str, int])
    #: What counts of each event: 1, 0 or -1. None: 1, but 0 of what is quarantined.
    effects: NDArray[np.int8] | None = None
    #: The offset of the message that changed each event. None: all are as they came.
    change_offsets: NDArray[np.int64] | None = None
    #: What is decided about the event stands already: a meter that can't read it takes nothing, and the others do.
    decided: bool = False

    def quarantine(self, row: int, code: str) -> None:
        self.status[row] = Status.QUARANTINED
        self.codes[row] = code

    def effect_of(self, row: int) -> int:
        """What counts of an event that is not quarantined: 1 or -1."""
        return 1 if self.effects is None else int(self.effects[row])

    def text_code(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


def attribute(events: Events, catalogue: Catalogue) -> Attributed:
    """Judge every event. A function of the events and the catalogue alone."""
    return judge(events, _customers(events, catalogue), catalogue.meters)


def judge(
    events: Events,
    customers: NDArray[np.uint64],
    meters_of: Mapping[Kind, Sequence[MeterEntry]],
    *,
    decided: bool = False,
) -> Attributed:
    """Judge events whose customers are known already (0: unknown) by these meters alone.

    `decided`: see `Attributed.decided`.
    """
    judged = Attributed(
        events=events,
        customers=customers,
        status=np.full(len(events), Status.UNMATCHED, np.int8),
        decided=decided,
    )
    for row in np.flatnonzero(customers == 0).tolist():
        judged.quarantine(row, UNKNOWN_SUBJECT)
    known = np.flatnonzero(customers != 0)
    order = known[np.argsort(events.kind_codes[known], kind="stable")]
    cuts = np.flatnonzero(np.diff(events.kind_codes[order])) + 1
    for rows in np.split(order, cuts) if len(order) else []:
        meters = meters_of.get(events.kinds[int(events.kind_codes[rows[0]])], ())
        if not meters:
            continue
        if len(rows) < FEW_EVENTS:
            _judge_one_by_one(judged, rows, meters)
        else:
            _judge_columns(judged, rows, meters)
    return judged


def _customers(events: Events, catalogue: Catalogue) -> NDArray[np.uint64]:
    """The customer of every event's subject, within its tenant; 0 for none."""
    encoded = events.subjects.dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
    names: list[str] = encoded.dictionary.to_pylist()
    tenants, tenant_codes = np.unique(events.tenants, return_inverse=True)
    if len(tenants) == 1:
        known = catalogue.customers.get(int(tenants[0]), {})
        return np.array([known.get(name, 0) for name in names], np.uint64)[codes]
    pairs, inverse = np.unique(tenant_codes * len(names) + codes, return_inverse=True)
    table = [
        catalogue.customers.get(int(tenants[pair // len(names)]), {}).get(names[pair % len(names)], 0)
        for pair in pairs.tolist()
    ]
    return np.array(table, np.uint64)[inverse]


def _judge_columns(judged: Attributed, rows: Rows, meters: Sequence[MeterEntry]) -> None:
    """Judge events of one kind by columns. Rows with anything odd are judged one by one."""
    paths = {parse_path(rule.property) for meter in meters for rule in meter.filters}
    paths |= {(name,) for meter in meters for name in meter.group_by}
    paths |= {parse_path(meter.value) for meter in meters if meter.value and meter.aggregation is not Aggregation.COUNT}
    table = decode_rows(judged.events.data.take(rows), tuple(sorted({path[0] for path in paths})))
    coded_columns = _CodedColumns(table)
    values: dict[Path, Values] = {}
    odd = table.broken
    masks: list[NDArray[np.bool_]] = []
    for meter in meters:
        mask = ~table.broken
        for rule in meter.filters:
            column = coded_columns.at(parse_path(rule.property))
            mask &= np.array([passes(rule, value) for value in column.distinct], np.bool_)[column.codes]
        masks.append(mask)
        if meter.aggregation is not Aggregation.COUNT and meter.value:
            path = parse_path(meter.value)
            if path not in values:
                values[path] = exact_values(table.column(path))
            odd = odd | (mask & values[path].odd)
    for meter, mask in zip(meters, masks, strict=True):
        matched = mask & ~odd
        judged.status[rows[matched]] = Status.COUNTED
        groups = [coded_columns.groups(judged, (name,)) for name in meter.group_by]
        if meter.aggregation is Aggregation.COUNT:
            taken = np.flatnonzero(matched)
            whole, part = np.ones(len(taken), np.int64), np.zeros(len(taken), np.int64)
        else:
            assert meter.value is not None, "only a count meter has no value"
            found = values[parse_path(meter.value)]
            taken = np.flatnonzero(matched & found.present)
            whole, part = found.whole[taken], found.part[taken]
        if len(taken):
            judged.contributions.append(
                Contribution(
                    meter=meter, rows=rows[taken], whole=whole, part=part, groups=[codes[taken] for codes in groups]
                )
            )
    if odd.any():
        _judge_one_by_one(judged, rows[odd], meters)


class _CodedColumns:
    """Columns as codes, each made once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._made: dict[Path, Any] = {}

    def at(self, path: Path) -> Any:
        if path not in self._made:
            self._made[path] = coded(self._table.column(path))
        return self._made[path]

    def groups(self, judged: Attributed, path: Path) -> NDArray[np.int64]:
        """The column as codes of `judged.texts`."""
        column = self.at(path)
        return np.array([judged.text_code(group_text(value)) for value in column.distinct], np.int64)[column.codes]


@dataclass(frozen=True, slots=True)
class _Taken:
    row: int
    units: int
    groups: tuple[int, ...]


def _judge_one_by_one(judged: Attributed, rows: Rows, meters: Sequence[MeterEntry]) -> None:
    """Judge events by the rule itself."""
    taken: dict[int, list[_Taken]] = {index: [] for index in range(len(meters))}
    for row in rows.tolist():
        try:
            found = _judge_event(judged, row, judged.events.data[row].as_py(), meters)
        except Reject as reason:
            judged.quarantine(row, reason.code)
            continue
        for index, item in found:
            taken[index].append(item)
    for meter, items in zip(meters, taken.values(), strict=True):
        _add_taken(judged, meter, items)


def _judge_event(judged: Attributed, row: int, text: str, meters: Sequence[MeterEntry]) -> list[tuple[int, _Taken]]:
    """What each meter, by its index, takes from the event. Raises Reject when the event is to be quarantined."""
    data = parse_data(text)
    found: list[tuple[int, _Taken]] = []
    matched = [(index, meter) for index, meter in enumerate(meters) if matches(meter, data)]
    for index, meter in matched:
        try:
            value = event_value(meter, data)
            groups = tuple(judged.text_code(text) for text in event_groups(meter, data)) if value is not None else ()
        except Reject:
            if not judged.decided:
                raise
            continue
        if value is not None:
            found.append((index, _Taken(row, int(value.scaleb(MAX_SCALE, EXACT)), groups)))
    if matched:
        judged.status[row] = Status.COUNTED
    return found


def _add_taken(judged: Attributed, meter: MeterEntry, items: list[_Taken]) -> None:
    limit = MAX_WHOLE * SCALE
    judged.giants += [
        Giant(meter=meter, row=item.row, units=item.units, groups=item.groups)
        for item in items
        if not -limit < item.units < limit
    ]
    ordinary = [item for item in items if -limit < item.units < limit]
    if ordinary:
        pairs = np.array([divmod(item.units, SCALE) for item in ordinary], np.int64)
        codes = np.array([item.groups for item in ordinary], np.int64).reshape(len(ordinary), -1)
        judged.contributions.append(
            Contribution(
                meter=meter,
                rows=np.array([item.row for item in ordinary], np.int64),
                whole=pairs[:, 0],
                part=pairs[:, 1],
                groups=[codes[:, index] for index in range(codes.shape[1])],
            )
        )
