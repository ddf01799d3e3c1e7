"""Usage of count and sum meters: whole minutes from the stored windows, parts of minutes from the raw events.

Rows of one (shard, seq) may stand there twice until they are merged, so `usage_minutes` is read with FINAL. Sums are
Decimal(76, 12) in ClickHouse and `Decimal` here; nothing divides.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.edges import MAX_EDGE_EVENTS, Edge, edge_values, partial_minutes, whole_minutes
from schemas.catalogue import MeterEntry
from schemas.instants import from_micros, to_micros
from schemas.meters import Aggregation
from schemas.money import EXACT

#: Spans of one query: as parameters they stay below what ClickHouse takes.
SPANS_A_QUERY = 1_000

#: Windows of one query, for the same reason; usage of more is read in several.
WINDOWS_A_QUERY = 5_000

GroupKey = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What of a meter is asked. `bounds` are the windows' ends, ascending; only [start, end) counts within them.

    `group_by` and the keys of `filters` are among the meter's own; values are group texts (`=m1`, or "" for none).
    """

    tenant_no: int
    meter: MeterEntry
    customer_nos: Sequence[int] | None  # None: all
    start: datetime
    end: datetime
    bounds: Sequence[datetime]
    by_customer: bool = False
    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """One row's place in the order of an answer. `customer_no` is 0 where customers are not told apart."""

    window_start: datetime
    customer_no: int
    groups: tuple[bytes, ...]  # group texts as UTF-8: ClickHouse's order of strings is that of their bytes


def query_usage(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Up to `limit` rows after `after`, in the order of their keys; windows without events are absent.

    Raises Reject `usage.edge_too_large`; see `edges`.
    """
    totals = _stored_rows(client, query, after=after, limit=limit)
    for key, value in _edge_rows(client, query).items():
        if after is None or key > after:
            totals[key] = _add(totals.get(key), value)
    return dict(sorted(totals.items())[:limit])


def _positions(query: UsageQuery) -> list[int]:
    return [query.meter.group_by.index(name) for name in query.group_by]


def _stored_rows(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Rows of whole minutes, the windows in slices: rows come by window, so slices follow each other."""
    found: dict[UsageKey, Decimal] = {}
    for offset in range(0, len(query.bounds) - 1, WINDOWS_A_QUERY):
        bounds = query.bounds[offset : offset + WINDOWS_A_QUERY + 1]
        if len(found) == limit:
            break
        if after is None or after.window_start < bounds[-1]:
            slice_ = replace(query, bounds=bounds, start=max(query.start, bounds[0]), end=min(query.end, bounds[-1]))
            found |= _slice_rows(client, slice_, after=after, limit=limit - len(found))
    return found


def _slice_rows(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    first, last = whole_minutes(query.start, query.end)
    if first >= last:
        return {}
    bounds = [to_micros(bound) // 1_000_000 for bound in query.bounds]
    if after is not None:
        first = max(first, whole_minutes(after.window_start, query.end)[0])
    rows = client.query(
        "SELECT roundDown(toUnixTimestamp64Second(minute), {bounds:Array(Int64)}) AS bucket,"
        " if({by_customer:Bool}, customer_no, 0) AS customer,"
        " arrayMap(place -> group_values[place], {places:Array(UInt8)}) AS groups,"
        " sum(event_count), toString(sum(total))"
        " FROM usage_minutes FINAL"
        " WHERE meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND ({all_customers:Bool} OR customer_no IN {customer_nos:Array(UInt64)})"
        " AND minute >= fromUnixTimestamp64Second({first:Int64}) AND minute < fromUnixTimestamp64Second({last:Int64})"
        " AND arrayAll((place, texts) -> has(texts, group_values[place]),"
        "  {filter_places:Array(UInt8)}, {filter_texts:Array(Array(String))})"
        " GROUP BY bucket, customer, groups"
        " HAVING {first_page:Bool} OR (bucket, customer, groups) >"
        "  ({after_bucket:Int64}, {after_customer:UInt64}, {after_groups:Array(String)})"
        " ORDER BY bucket, customer, groups LIMIT {limit:UInt64}",
        parameters={
            "bounds": bounds,
            "by_customer": query.by_customer,
            "places": [position + 1 for position in _positions(query)],
            "meter_no": query.meter.meter_no,
            "revision": query.meter.revision,
            "all_customers": query.customer_nos is None,
            "customer_nos": list(query.customer_nos or ()),
            "first": to_micros(first) // 1_000_000,
            "last": to_micros(last) // 1_000_000,
            "filter_places": [query.meter.group_by.index(name) + 1 for name in query.filters],
            "filter_texts": [list(texts) for texts in query.filters.values()],
            "first_page": after is None,
            "after_bucket": 0 if after is None else to_micros(after.window_start) // 1_000_000,
            "after_customer": 0 if after is None else after.customer_no,
            "after_groups": [] if after is None else [text.decode() for text in after.groups],
            "limit": limit,
        },
    ).result_rows
    starts = dict(zip(bounds, query.bounds, strict=True))  # the first bound may be no whole second
    return {
        UsageKey(starts[bucket], customer, tuple(text.encode() for text in groups)): _measure(query.meter, count, total)
        for bucket, customer, groups, count, total in rows
    }


def _edge_rows(client: Client, query: UsageQuery) -> dict[UsageKey, Decimal]:
    parts = partial_minutes(query.start, query.end)
    customers: Sequence[int | None] = [None] if query.customer_nos is None else query.customer_nos
    edges = [
        Edge(tenant_no=query.tenant_no, meter=query.meter, customer_no=customer, start=start, end=end)
        for start, end in parts
        for customer in customers
    ]
    positions = _positions(query)
    wanted = {query.meter.group_by.index(name): set(values) for name, values in query.filters.items()}
    totals: dict[UsageKey, Decimal] = {}
    for found in edge_values(client, edges, limit=MAX_EDGE_EVENTS):
        if any(found.groups[position] not in values for position, values in wanted.items()):
            continue
        key = UsageKey(
            _window_of(query.bounds, edges[found.index].start),
            found.customer_no if query.by_customer else 0,
            tuple(found.groups[position].encode() for position in positions),
        )
        totals[key] = _add(totals.get(key), found.value)
    return totals


def _window_of(bounds: Sequence[datetime], instant: datetime) -> datetime:
    """The start of the window that holds the instant; windows begin on whole minutes, so an edge lies in one."""
    return bounds[bisect_right(bounds, instant) - 1]


def usage_groups(client: Client, query: UsageQuery, *, limit: int) -> list[tuple[int, tuple[bytes, ...]]]:
    """The customers and groups that have usage anywhere in the range, in order, up to `limit`."""
    whole = replace(query, bounds=[query.start, query.end])
    return [(key.customer_no, key.groups) for key in query_usage(client, whole, after=None, limit=limit)]


def stored_range(
    client: Client, *, meter: MeterEntry, customer_nos: Sequence[int] | None
) -> tuple[datetime, datetime] | None:
    """The first and the last minute that hold usage of the meter; None when there is none."""
    count, first, last = client.query(
        "SELECT count(), toUnixTimestamp64Second(min(minute)), toUnixTimestamp64Second(max(minute)) FROM usage_minutes"
        " WHERE meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND ({all_customers:Bool} OR customer_no IN {customer_nos:Array(UInt64)})",
        parameters={
            "meter_no": meter.meter_no,
            "revision": meter.revision,
            "all_customers": customer_nos is None,
            "customer_nos": list(customer_nos or ()),
        },
    ).result_rows[0]
    return (from_micros(first * 1_000_000), from_micros(last * 1_000_000)) if count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Usage of one customer on one meter in [start, end)."""

    customer_no: int
    meter_no: int
    start: datetime
    end: datetime


def usage_totals(
    client: Client, *, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> dict[Span, dict[GroupKey, Decimal]]:
    """The totals of each span by the meter's full groups (texts as `matching.group_text`); no usage: no group.

    One query for up to SPANS_A_QUERY spans, and one for the parts of minutes at their ends. Every meter that a span
    names is in `meters`. Sum the groups for the span's whole usage.
    """
    totals: dict[Span, dict[GroupKey, Decimal]] = {span: {} for span in spans}
    distinct = list(totals)
    for offset in range(0, len(distinct), SPANS_A_QUERY):
        page = distinct[offset : offset + SPANS_A_QUERY]
        for span, groups, count, total in _span_rows(client, meters, page):
            totals[span][groups] = _measure(meters[span.meter_no], count, total)
        parts = [(span, *part) for span in page for part in partial_minutes(span.start, span.end)]
        edges = [
            Edge(tenant_no=tenant_no, meter=meters[span.meter_no], customer_no=span.customer_no, start=start, end=end)
            for span, start, end in parts
        ]
        for found in edge_values(client, edges, limit=MAX_EDGE_EVENTS):
            groups = totals[parts[found.index][0]]
            groups[found.groups] = _add(groups.get(found.groups), found.value)
    return totals


def _span_rows(
    client: Client, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> Iterator[tuple[Span, GroupKey, int, str]]:
    minutes = [whole_minutes(span.start, span.end) for span in spans]
    firsts = [to_micros(first) // 1_000_000 for first, _ in minutes]
    lasts = [to_micros(last) // 1_000_000 for _, last in minutes]
    meter_nos = sorted({span.meter_no for span in spans})
    rows = client.query(
        "SELECT place, group_values, sum(event_count), toString(sum(total)) FROM"
        " (SELECT meter_no, customer_no, toUnixTimestamp64Second(minute) AS second, group_values, event_count, total"
        "  FROM usage_minutes FINAL"
        "  WHERE (meter_no, revision) IN {meters:Array(Tuple(UInt32, UInt32))}"
        "  AND customer_no IN {customers:Array(UInt64)}"
        "  AND minute >= fromUnixTimestamp64Second({first:Int64})"
        "  AND minute < fromUnixTimestamp64Second({last:Int64})) AS stored"
        " INNER JOIN"
        " (SELECT span.1 AS place, span.2 AS meter_no, span.3 AS customer_no, span.4 AS first, span.5 AS last FROM"
        "  (SELECT arrayJoin(arrayZip({places:Array(UInt32)}, {span_meters:Array(UInt32)},"
        "   {span_customers:Array(UInt64)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})) AS span)) AS wanted"
        " USING (meter_no, customer_no)"
        " WHERE second >= wanted.first AND second < wanted.last"
        " GROUP BY place, group_values",
        parameters={
            "meters": [(meter_no, meters[meter_no].revision) for meter_no in meter_nos],
            "customers": sorted({span.customer_no for span in spans}),
            "first": min(firsts),
            "last": max(lasts),
            "places": list(range(len(spans))),
            "span_meters": [span.meter_no for span in spans],
            "span_customers": [span.customer_no for span in spans],
            "firsts": firsts,
            "lasts": lasts,
        },
    ).result_rows
    for place, groups, count, total in rows:
        yield spans[place], tuple(groups), count, total


def _measure(meter: MeterEntry, count: int, total: str) -> Decimal:
    return Decimal(count) if meter.aggregation is Aggregation.COUNT else Decimal(total)


def _add(left: Decimal | None, right: Decimal) -> Decimal:
    return right if left is None else EXACT.add(left, right)
