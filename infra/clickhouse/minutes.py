"""Usage of count, sum and avg meters: whole minutes from the stored windows, parts of minutes from the raw events.

Rows of one (shard, seq) may stand there twice until they are merged, so `usage_minutes` is read with FINAL. Counts and
sums are added up in ClickHouse, as Decimal(76, 12), and here; an average is divided once, when all has been added up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.edges import MAX_EDGE_EVENTS, Edge, EdgeValue, edge_values, partial_minutes, whole_minutes
from infra.clickhouse.usage_query import (
    AFTER_SQL,
    KEYS_SQL,
    OF_METERS_SQL,
    SELECTED_SQL,
    SPANS_SQL,
    GroupKey,
    Span,
    SpanUsage,
    UsageKey,
    UsageQuery,
    positions,
    selection,
    slices,
    span_parameters,
    window_of,
)
from schemas.catalogue import MeterEntry
from schemas.instants import from_micros, to_micros
from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE, round_ratio


@dataclass(slots=True)
class Added:
    """How many events, and the sum of their values; both by effect, so what was taken back is in neither."""

    events: int = 0
    total: Decimal = Decimal(0)

    def add(self, events: int, total: Decimal) -> None:
        self.events += events
        self.total = EXACT.add(self.total, total)

    def value(self, aggregation: Aggregation) -> Decimal | None:
        """What a meter of this aggregation says of it; None when nothing is left in it."""
        if not self.events:
            return self.total or None  # without events there is no sum: one that is left shows what is wrong
        match aggregation:
            case Aggregation.COUNT:
                return Decimal(self.events)
            case Aggregation.AVG:
                return round_ratio(self.total, Decimal(self.events), MAX_SCALE)
            case _:
                return self.total


def window_values(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Up to `limit` rows after `after`, in the order of their keys. Raises Reject `usage.edge_too_large`."""
    found: dict[UsageKey, Added] = {}
    for part in slices(query, after):
        if len(found) >= limit:
            break
        found |= _slice_rows(client, part, after=after, limit=limit - len(found))
    for key, added in _edge_rows(client, query).items():
        if after is None or key > after:
            found.setdefault(key, Added()).add(added.events, added.total)
    values = ((key, added.value(query.aggregated_by)) for key, added in sorted(found.items()))
    return dict([(key, value) for key, value in values if value is not None][:limit])


def _slice_rows(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Added]:
    first, last = whole_minutes(query.start, query.end)
    if first >= last:
        return {}
    rows = client.query(
        "SELECT roundDown(toUnixTimestamp64Second(minute) * 1000000, {bounds:Array(Int64)}) AS bucket,"  # noqa: S608 - texts of this package
        f" {KEYS_SQL}, sum(event_count) AS events, sum(total) AS sum_total, toString(sum_total)"
        f" FROM usage_minutes FINAL WHERE {SELECTED_SQL}"
        " AND minute >= fromUnixTimestamp64Second({first:Int64}) AND minute < fromUnixTimestamp64Second({last:Int64})"
        " GROUP BY bucket, customer, groups"
        f" HAVING (events <> 0 OR sum_total <> 0) AND {AFTER_SQL}"
        " ORDER BY bucket, customer, groups LIMIT {limit:UInt64}",
        parameters=selection(query, after, limit)
        | {
            "bounds": [to_micros(bound) for bound in query.bounds],
            "first": to_micros(first) // 1_000_000,
            "last": to_micros(last) // 1_000_000,
        },
    ).result_rows
    return {
        UsageKey(from_micros(bucket), customer, tuple(text.encode() for text in groups)): Added(events, Decimal(total))
        for bucket, customer, groups, events, _, total in rows
    }


def _edge_rows(client: Client, query: UsageQuery) -> dict[UsageKey, Added]:
    parts = partial_minutes(query.start, query.end)
    customers: Sequence[int | None] = [None] if query.customer_nos is None else query.customer_nos
    edges = [
        Edge(tenant_no=query.tenant_no, meter=query.meter, customer_no=customer, start=start, end=end)
        for start, end in parts
        for customer in customers
    ]
    asked = positions(query)
    wanted = {query.meter.group_by.index(name): set(values) for name, values in query.filters.items()}
    totals: dict[UsageKey, Added] = {}
    for found in edge_values(client, edges, limit=MAX_EDGE_EVENTS):
        if any(found.groups[position] not in values for position, values in wanted.items()):
            continue
        key = UsageKey(
            window_of(query.bounds, edges[found.index].start),  # windows begin on whole minutes: an edge lies in one
            found.customer_no if query.by_customer else 0,
            tuple(found.groups[position].encode() for position in asked),
        )
        totals.setdefault(key, Added()).add(found.effect, found.value)
    return totals


def span_values(
    client: Client, *, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> dict[Span, SpanUsage]:
    """What each span holds: one query for all their whole minutes, one for the parts of minutes at their ends."""
    added: dict[Span, dict[GroupKey, Added]] = {span: {} for span in spans}
    for span, groups, events, total in _span_rows(client, meters, spans):
        added[span].setdefault(groups, Added()).add(events, total)
    for span, found in _span_edges(client, tenant_no, meters, spans):
        added[span].setdefault(found.groups, Added()).add(found.effect, found.value)
    return {span: _span_usage(meters[span.meter_no].aggregation, by_group) for span, by_group in added.items()}


def _span_usage(aggregation: Aggregation, by_group: Mapping[GroupKey, Added]) -> SpanUsage:
    values = ((groups, added.value(aggregation)) for groups, added in by_group.items())
    return SpanUsage(
        whole=_sum(by_group.values()).value(aggregation),
        groups={groups: value for groups, value in values if value is not None},
    )


def _sum(parts: Iterable[Added]) -> Added:
    whole = Added()
    for part in parts:
        whole.add(part.events, part.total)
    return whole


def _span_edges(
    client: Client, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> Iterator[tuple[Span, EdgeValue]]:
    parts = [(span, *part) for span in spans for part in partial_minutes(span.start, span.end)]
    edges = [
        Edge(tenant_no=tenant_no, meter=meters[span.meter_no], customer_no=span.customer_no, start=start, end=end)
        for span, start, end in parts
    ]
    for found in edge_values(client, edges, limit=MAX_EDGE_EVENTS):
        yield parts[found.index][0], found


def _span_rows(
    client: Client, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> Iterator[tuple[Span, GroupKey, int, Decimal]]:
    minutes = [whole_minutes(span.start, span.end) for span in spans]
    rows = client.query(
        "SELECT place, group_values, sum(event_count), toString(sum(total)) FROM"  # noqa: S608 - texts of this package
        " (SELECT meter_no, customer_no, toUnixTimestamp64Second(minute) AS second, group_values, event_count, total"
        f" FROM usage_minutes FINAL WHERE {OF_METERS_SQL}"
        "  AND minute >= fromUnixTimestamp64Second({first:Int64})"
        "  AND minute < fromUnixTimestamp64Second({last:Int64})) AS stored"
        f" INNER JOIN {SPANS_SQL} AS wanted USING (meter_no, customer_no)"
        " WHERE second >= wanted.first AND second < wanted.last"
        " GROUP BY place, group_values",
        parameters=span_parameters(
            meters, spans, [(to_micros(first) // 1_000_000, to_micros(last) // 1_000_000) for first, last in minutes]
        ),
    ).result_rows
    for place, groups, events, total in rows:
        yield spans[place], tuple(groups), events, Decimal(total)
