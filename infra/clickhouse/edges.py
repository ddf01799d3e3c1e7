"""Parts of minutes: what stored minutes are too coarse for, read from the raw events and judged as the flow did."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from infra.clickhouse.client import Client
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import EPOCH, to_micros
from schemas.matching import event_groups, event_value, matches, parse_data

MINUTE = timedelta(minutes=1)
HOUR_SECONDS = 3600
#: Events that may stand in the partial minutes of one query.
MAX_EDGE_EVENTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A part [start, end) of one minute, of one customer or (None) of all."""

    meter: MeterEntry
    customer_no: int | None
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeValue:
    """What one event adds to the meter of the edge that stands at `index` in the list of edges."""

    index: int
    customer_no: int
    groups: tuple[str, ...]
    value: Decimal


def whole_minutes(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The whole minutes inside [start, end); the first is not before the second when there is none."""
    return EPOCH - (EPOCH - start) // MINUTE * MINUTE, EPOCH + (end - EPOCH) // MINUTE * MINUTE


def partial_minutes(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """What of [start, end) lies outside its whole minutes: up to two parts, none of them empty."""
    first, last = whole_minutes(start, end)
    if first > last:  # both within one minute
        return [(start, end)]
    return [(a, b) for a, b in ((start, first), (last, end)) if a < b]


def edge_values(client: Client, *, tenant_no: int, edges: Sequence[Edge]) -> list[EdgeValue]:
    """What the events at the edges add. Raises Reject `usage.edge_too_large` beyond MAX_EDGE_EVENTS."""
    if not edges:
        return []
    customers = [edge.customer_no for edge in edges if edge.customer_no is not None]
    hours = {to_micros(edge.start) // 1_000_000 // HOUR_SECONDS * HOUR_SECONDS for edge in edges}
    parameters: dict[str, Any] = {
        "tenant_no": tenant_no,
        "types": sorted({edge.meter.event_type for edge in edges}),
        "hours": sorted(hours),
        "customer_nos": sorted(set(customers)) if len(customers) == len(edges) else [],
        "limit": MAX_EDGE_EVENTS + 1,
        "starts": [to_micros(edge.start) for edge in edges],
        "ends": [to_micros(edge.end) for edge in edges],
    }
    rows = client.query(
        "SELECT customer_no, type, toUnixTimestamp64Micro(occurred_at) AS micros, data FROM events FINAL"
        " WHERE tenant_no = {tenant_no:UInt32} AND type IN {types:Array(String)} AND status = 'counted'"
        " AND (empty({customer_nos:Array(UInt64)}) OR customer_no IN {customer_nos:Array(UInt64)})"
        " AND toUnixTimestamp(toStartOfHour(occurred_at)) IN {hours:Array(Int64)}"
        " AND arrayExists((a, b) -> micros >= a AND micros < b, {starts:Array(Int64)}, {ends:Array(Int64)})"
        " LIMIT {limit:UInt64}",
        parameters=parameters,
    ).result_rows
    if len(rows) > MAX_EDGE_EVENTS:
        raise Reject("usage.edge_too_large", "from and to cut a minute with too many events; take whole minutes")
    return list(_judge(rows, edges))


def _judge(rows: Iterable[Sequence[Any]], edges: Sequence[Edge]) -> Iterable[EdgeValue]:
    spans: dict[tuple[int | None, str], list[tuple[int, int, int]]] = {}
    for index, edge in enumerate(edges):
        key = (edge.customer_no, edge.meter.event_type)
        spans.setdefault(key, []).append((to_micros(edge.start), to_micros(edge.end), index))
    for customer_no, event_type, micros, text in rows:
        candidates = spans.get((customer_no, event_type), []) + spans.get((None, event_type), [])
        hits = [index for start, end, index in candidates if start <= micros < end]
        if not hits:
            continue
        data = parse_data(text)
        for index in hits:
            meter = edges[index].meter
            value = event_value(meter, data) if matches(meter, data) else None
            if value is not None:
                yield EdgeValue(index=index, customer_no=customer_no, groups=event_groups(meter, data), value=value)
