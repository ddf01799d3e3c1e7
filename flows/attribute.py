"""Whose each event is, which meters take it, and what they take: by the catalogue of the batch.

Every event ends in one state. `quarantined`: its subject is unknown, it is ahead of its customer's test clock, its data
can't be read, or a value that a meter needs is no number. `unmatched`: no meter's filters let it through. `counted`:
those of at least one do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.attributed import Attributed, Contribution, Giant, Status
from flows.catalogue import Catalogue
from flows.clocks import TIME_IN_FUTURE, judge_times
from flows.columns import judge_columns
from flows.events import Events, Kind, Rows
from flows.fields import MAX_WHOLE, SCALE
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.matching import event_groups, event_text, event_value, matches, parse_data
from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE

UNKNOWN_SUBJECT = "event.unknown_subject"

#: Below this many events of one kind, judging them one by one costs less than making columns of them.
FEW_EVENTS = 48


def attribute(events: Events, catalogue: Catalogue) -> Attributed:
    """Judge every event. A function of the events and the catalogue alone."""
    customers = _customers(events, catalogue)
    ahead: Rows | None = None
    if catalogue.clock_tenants:
        events, ahead = judge_times(events, customers, catalogue)
    return judge(events, customers, catalogue.meters, ahead=ahead)


def judge(
    events: Events,
    customers: NDArray[np.uint64],
    meters_of: Mapping[Kind, Sequence[MeterEntry]],
    *,
    ahead: Rows | None = None,
    decided: bool = False,
) -> Attributed:
    """Judge events whose customers are known already (0: unknown) by these meters alone. Rows that are `ahead` of their
    customer's clock are quarantined.

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
    if ahead is not None and len(ahead):
        for row in ahead.tolist():
            judged.quarantine(row, TIME_IN_FUTURE)
        known = np.flatnonzero(judged.status != Status.QUARANTINED)
    else:
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
            odd = judge_columns(judged, rows, meters)
            if len(odd):
                _judge_one_by_one(judged, odd, meters)
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


@dataclass(frozen=True, slots=True)
class _Taken:
    row: int
    units: int
    groups: tuple[int, ...]
    text: int


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
            taken = _take(judged, row, meter, data)
        except Reject:
            if not judged.decided:
                raise
            continue
        if taken is not None:
            found.append((index, taken))
    if matched:
        judged.status[row] = Status.COUNTED
    return found


def _take(judged: Attributed, row: int, meter: MeterEntry, data: dict[str, object]) -> _Taken | None:
    value = event_value(meter, data)
    if value is None:
        return None
    return _Taken(
        row=row,
        units=int(value.scaleb(MAX_SCALE, EXACT)),
        groups=tuple(judged.text_code(text) for text in event_groups(meter, data)),
        text=judged.text_code(event_text(meter, data)),
    )


def _add_taken(judged: Attributed, meter: MeterEntry, items: list[_Taken]) -> None:
    limit = MAX_WHOLE * SCALE
    judged.giants += [
        Giant(meter=meter, row=item.row, units=item.units, groups=item.groups)
        for item in items
        if not -limit < item.units < limit
    ]
    ordinary = [item for item in items if -limit < item.units < limit]
    if ordinary:
        unique = meter.aggregation is Aggregation.UNIQUE_COUNT
        pairs = np.array([divmod(item.units, SCALE) for item in ordinary], np.int64)
        codes = np.array([item.groups for item in ordinary], np.int64).reshape(len(ordinary), -1)
        judged.contributions.append(
            Contribution(
                meter=meter,
                rows=np.array([item.row for item in ordinary], np.int64),
                whole=pairs[:, 0],
                part=pairs[:, 1],
                groups=[codes[:, index] for index in range(codes.shape[1])],
                texts=np.array([item.text for item in ordinary], np.int64) if unique else None,
            )
        )
