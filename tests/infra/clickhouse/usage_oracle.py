"""What usage must be, by the words of the contract alone: plain lists, `Decimal` and `Fraction`; and events for it."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from infra.clickhouse.client import Client
from infra.clickhouse.usage_query import UsageKey, UsageQuery
from schemas.catalogue import MeterEntry
from schemas.instants import MICROSECOND
from schemas.meters import Aggregation
from schemas.money import format_decimal
from tests.infra.clickhouse.rows import TENANT_NO, StoredEvent, store_events

START = datetime.fromisoformat("2026-10-31T22:00:00Z")  # clocks go back in New York eight hours later
NUMBERS = itertools.count(100_000)  # each example has meters and an event type of its own


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one event says: `groups` by the name of a property."""

    customer_no: int
    occurred_at: datetime
    received_at: datetime
    place: tuple[int, int]  # partition, offset
    groups: dict[str, str]
    value: Decimal
    text: str
    voided: bool = False

    @property
    def order(self) -> tuple[datetime, datetime, tuple[int, int]]:
        return self.occurred_at, self.received_at, self.place


def oracle(query: UsageQuery, taken: Iterable[Taken]) -> dict[UsageKey, Decimal]:
    """Every row of the answer."""
    kept = sorted(
        (
            event
            for event in taken
            if not event.voided
            and (query.customer_nos is None or event.customer_no in query.customer_nos)
            and all(event.groups[name] in texts for name, texts in query.filters.items())
        ),
        key=lambda event: event.order,
    )
    rows: dict[UsageKey, Decimal] = {}
    for window_start, window_end in pairwise(query.bounds):
        first, last = max(window_start, query.start), min(window_end, query.end)
        by_key: dict[UsageKey, list[Taken]] = {}
        for event in kept:
            groups = tuple(event.groups[name].encode() for name in query.group_by)
            key = UsageKey(window_start, event.customer_no if query.by_customer else 0, groups)
            by_key.setdefault(key, []).append(event)
        for key, events in sorted(by_key.items()):
            value = _value(query.meter.aggregation, events, first, last)
            if value is not None:
                rows[key] = value
    return rows


def _value(aggregation: Aggregation, events: Sequence[Taken], first: datetime, last: datetime) -> Decimal | None:
    if aggregation is Aggregation.WEIGHTED_SUM:
        return _time_average(events, first, last)
    inside = [event for event in events if first <= event.occurred_at < last]
    if not inside:
        return None
    values = [event.value for event in inside]
    match aggregation:
        case Aggregation.COUNT:
            return Decimal(len(inside))
        case Aggregation.SUM:
            return exact(sum(map(Fraction, values), Fraction(0)))
        case Aggregation.AVG:
            return exact(sum(map(Fraction, values), Fraction(0)) / len(values))
        case Aggregation.MIN:
            return min(values)
        case Aggregation.MAX:
            return max(values)
        case Aggregation.LATEST:
            return values[-1]
        case _:
            return Decimal(len({event.text for event in inside}))


def _time_average(events: Sequence[Taken], first: datetime, last: datetime) -> Decimal | None:
    """Second by second in the mind; here from change to change of each series."""
    integral, begun = Fraction(0), False
    for series in {(event.customer_no, tuple(event.groups.items())) for event in events}:
        own = [event for event in events if (event.customer_no, tuple(event.groups.items())) == series]
        until = [event.occurred_at for event in own[1:]] + [last]
        begun = begun or own[0].occurred_at < last
        for event, ends in zip(own, until, strict=True):
            a, b = max(first, event.occurred_at), min(last, ends)
            if a < b:
                integral += Fraction(event.value) * ((b - a) // MICROSECOND)
    return exact(integral / ((last - first) // MICROSECOND)) if begun else None


def exact(number: Fraction) -> Decimal:
    """To 12 digits after the point, half away from zero."""
    scaled = abs(number) * 10**12
    units = int(scaled + Fraction(1, 2))
    sign = 1 if number < 0 else 0
    return Decimal((sign, tuple(int(digit) for digit in str(units)), -12))


@dataclass(frozen=True)
class Case:
    meters: dict[Aggregation, MeterEntry]
    taken: list[Taken]

    def query(self, aggregation: Aggregation, **fields: Any) -> UsageQuery:
        return UsageQuery(tenant_no=TENANT_NO, meter=self.meters[aggregation], **fields)


def store(client: Client, taken: list[Taken]) -> Case:
    """In two batches and a third that takes back; each stored twice, as a redo does, and no merge in between."""
    number = next(NUMBERS)
    meters = {
        aggregation: MeterEntry(
            meter_no=number * 10 + index, revision=1, event_type=f"type{number}", aggregation=aggregation,
            value=None if aggregation is Aggregation.COUNT else "$.n", filters=(), group_by=("model", "region"),
        )
        for index, aggregation in enumerate(Aggregation)
    }  # fmt: skip
    events = [_stored(event, number, list(meters.values())) for event in taken]
    half = len(events) // 2
    voids = [event.taken_back(change_offset=1_000) for event, fact in zip(events, taken, strict=True) if fact.voided]
    for seq, batch in enumerate((events[:half], events[half:], voids), start=1):
        if batch:
            store_events(client, batch, seq=seq, redo=True)
    return Case(meters, taken)


def _stored(event: Taken, number: int, meters: list[MeterEntry]) -> StoredEvent:
    partition, offset = event.place
    fields = [f'"n":{format_decimal(event.value)}']
    fields += [f'"{name}":"{text[1:]}"' for name, text in event.groups.items() if text]
    return StoredEvent(
        id=f"{number}-{offset}", customer_no=event.customer_no, occurred_at=event.occurred_at, type=f"type{number}",
        received_at=event.received_at, partition=partition, offset=offset, data="{" + ",".join(fields) + "}",
        status="unmatched" if offset % 3 == 0 else "counted", meters=meters,
    )  # fmt: skip


def fact(minute: int, value: str, *, offset: int, model: str = "=m1", **fields: Any) -> Taken:
    """Customer 1's; received at START unless told otherwise."""
    given: dict[str, Any] = {
        "customer_no": 1, "occurred_at": START + timedelta(minutes=minute), "received_at": START, "place": (0, offset),
        "groups": {"model": model, "region": ""}, "value": Decimal(value), "text": f"={value}",
    }  # fmt: skip
    return Taken(**(given | fields))
