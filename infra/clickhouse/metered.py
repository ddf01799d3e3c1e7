"""What meters counted for many customers at once, exactly, each in a span of its own: the usage that is billed.

Whole minutes come from the windows. A span that starts or ends inside a minute takes the events of that minute one by
one, judged by the same functions as the flow's. Only batches that are stored in full are looked at (`stored_seqs`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.clickhouse.client import Client
from schemas.billing import GroupQuantity, MeteredUsage
from schemas.catalogue import MeterEntry
from schemas.instants import MINUTE_MICROS, to_micros
from schemas.matching import event_groups, event_value, matches, parse_data
from schemas.meters import Aggregation

#: Spans a query: as text their bounds stay well below the 128 KiB that ClickHouse takes in one parameter.
SPANS_A_QUERY = 500

Groups = tuple[str, ...]  # as in windows: `=` before a value, empty for a missing property


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Usage of one customer in [start, end)."""

    customer_no: int
    start: datetime
    end: datetime

    def minutes(self) -> tuple[int, int]:
        """The whole minutes inside, as microseconds since 1970: [first, last). Empty when first >= last."""
        first = -(-to_micros(self.start) // MINUTE_MICROS) * MINUTE_MICROS
        return first, to_micros(self.end) // MINUTE_MICROS * MINUTE_MICROS

    def edges(self) -> list[tuple[int, int]]:
        """What whole minutes leave over: at most two intervals of microseconds, each inside one or two minutes."""
        start, end = to_micros(self.start), to_micros(self.end)
        first, last = self.minutes()
        if first >= last:
            return [(start, end)] if start < end else []
        return [(low, high) for low, high in ((start, first), (last, end)) if low < high]


@dataclass(slots=True)
class Counted:
    """Events and the sum of their values."""

    events: int = 0
    total: Decimal = Decimal(0)

    def add(self, events: int, total: Decimal) -> None:
        self.events += events
        self.total += total


@dataclass(slots=True)
class SpanUsage:
    """`windows` is the whole minutes' part alone, which must be equal to the raw events'; `groups` is all of it."""

    windows: Counted = field(default_factory=Counted)
    groups: dict[Groups, Counted] = field(default_factory=dict[Groups, Counted])

    def metered(self, meter: MeterEntry) -> MeteredUsage:
        """What the meter says: the number of events, or their sum, of each group in a fixed order."""
        return MeteredUsage(
            meter_no=meter.meter_no,
            groups=tuple(
                GroupQuantity(
                    group={
                        name: text[1:] if text else None for name, text in zip(meter.group_by, group, strict=False)
                    },  # strict would refuse the one group `()` of usage that was not asked for by group
                    quantity=Decimal(counted.events) if meter.aggregation is Aggregation.COUNT else counted.total,
                )
                for group, counted in sorted(self.groups.items())
            ),
        )


def usage_totals(
    client: Client,
    *,
    tenant_no: int,
    meter: MeterEntry,
    spans: Sequence[Span],
    stored_seqs: Mapping[int, int],
    by_group: bool,
) -> dict[Span, SpanUsage]:
    """The usage of each span; without `by_group` as one group `()`. A span without usage has no groups.

    `stored_seqs`: by shard, the last batch that is stored in full. Memory is bounded by the groups, not the events.
    """
    usage = {span: SpanUsage() for span in spans}
    distinct = list(usage)
    for start in range(0, len(distinct), SPANS_A_QUERY):
        page = distinct[start : start + SPANS_A_QUERY]
        _add_windows(client, meter, page, stored_seqs, usage, by_group=by_group)
        _add_edges(client, tenant_no, meter, page, stored_seqs, usage, by_group=by_group)
    return usage


def _add_windows(
    client: Client,
    meter: MeterEntry,
    spans: Sequence[Span],
    stored_seqs: Mapping[int, int],
    usage: dict[Span, SpanUsage],
    *,
    by_group: bool,
) -> None:
    """Windows grouped by their full key first, so that rows of a batch that was stored twice count once."""
    group = "group_values" if by_group else "[]::Array(String)"
    rows = client.query(
        f"SELECT span, {group} AS groups, sum(w.events), sum(w.total) FROM ("  # noqa: S608 - both texts stand above
        " SELECT customer_no, toUnixTimestamp64Micro(toDateTime64(minute, 6, 'UTC')) AS at, group_values,"
        " any(event_count) AS events, any(usage_minutes.total) AS total FROM usage_minutes"
        " WHERE meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND customer_no IN {customers:Array(UInt64)}"
        " AND minute >= fromUnixTimestamp64Micro({low:Int64}) AND minute < fromUnixTimestamp64Micro({high:Int64})"
        " AND seq <= transform(shard, {shards:Array(UInt16)}, {seqs:Array(UInt64)}, toUInt64(0))"
        " GROUP BY customer_no, minute, group_values, shard, seq) AS w"
        f" INNER JOIN {SPANS_SQL} AS s ON w.customer_no = s.customer_no"
        " WHERE w.at >= s.first AND w.at < s.last GROUP BY span, groups",
        parameters={
            "meter_no": meter.meter_no,
            "revision": meter.revision,
            **span_parameters(spans),
            **seq_parameters(stored_seqs),
        },
    ).result_rows
    for index, groups, events, total in rows:
        found = usage[spans[index]]
        found.windows.add(events, total)
        found.groups.setdefault(tuple(groups), Counted()).add(events, total)


def _add_edges(
    client: Client,
    tenant_no: int,
    meter: MeterEntry,
    spans: Sequence[Span],
    stored_seqs: Mapping[int, int],
    usage: dict[Span, SpanUsage],
    *,
    by_group: bool,
) -> None:
    by_customer: dict[int, list[tuple[int, int, Span]]] = {}
    minutes: set[tuple[int, int]] = set()
    for span in spans:
        for low, high in span.edges():
            by_customer.setdefault(span.customer_no, []).append((low, high, span))
            minutes.update((span.customer_no, at // MINUTE_MICROS * 60) for at in (low, high - 1))
    if not minutes:
        return
    for customer_no, at, data in edge_events(client, tenant_no, meter, sorted(minutes), stored_seqs):
        edges = [span for low, high, span in by_customer[customer_no] if low <= at < high]
        if not edges:
            continue
        judged = judge(meter, data)
        if judged is None:
            continue
        groups, value = judged
        for span in edges:
            usage[span].groups.setdefault(groups if by_group else (), Counted()).add(1, value)


def edge_events(
    client: Client,
    tenant_no: int,
    meter: MeterEntry,
    minutes: Sequence[tuple[int, int]],
    stored_seqs: Mapping[int, int],
) -> Iterable[tuple[int, int, str]]:
    """(customer_no, microseconds, data) of counted events of the meter's type in (customer_no, minute in seconds)."""
    with client.query_rows_stream(
        "SELECT customer_no, toUnixTimestamp64Micro(occurred_at), data FROM events FINAL"
        " WHERE tenant_no = {tenant_no:UInt32} AND type = {type:String} AND status = 'counted'"
        " AND customer_no IN {customers:Array(UInt64)}"
        " AND toStartOfHour(occurred_at) IN {hours:Array(DateTime('UTC'))}"
        " AND (customer_no, toUnixTimestamp(toStartOfMinute(occurred_at))) IN"
        " (SELECT t.1, t.2 FROM (SELECT arrayJoin(arrayZip({owners:Array(UInt64)}, {minutes:Array(UInt32)})) AS t))"
        " AND seq <= transform(shard, {shards:Array(UInt16)}, {seqs:Array(UInt64)}, toUInt64(0))",
        parameters={
            "tenant_no": tenant_no,
            "type": meter.event_type,
            "customers": sorted({customer_no for customer_no, _ in minutes}),
            "hours": sorted({minute // 3600 * 3600 for _, minute in minutes}),
            "owners": [customer_no for customer_no, _ in minutes],
            "minutes": [minute for _, minute in minutes],
            **seq_parameters(stored_seqs),
        },
    ) as stream:
        yield from stream


def judge(meter: MeterEntry, data: str) -> tuple[Groups, Decimal] | None:
    """The group and value that the meter takes from a counted event; None when it takes nothing."""
    parsed = parse_data(data)
    if not matches(meter, parsed):
        return None
    value = event_value(meter, parsed)
    return None if value is None else (event_groups(meter, parsed), value)


#: The spans as a table: span (index), customer_no, first, last (whole minutes, in microseconds since 1970).
SPANS_SQL = (
    "(SELECT t.1 AS span, t.2 AS customer_no, t.3 AS first, t.4 AS last FROM (SELECT arrayJoin(arrayZip("
    "range(toUInt32({count:UInt32})), {owners:Array(UInt64)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})) AS t))"
)


def span_parameters(spans: Sequence[Span]) -> dict[str, Any]:
    """What SPANS_SQL binds, and `customers`, `low`, `high` that bound all of them."""
    minutes = [span.minutes() for span in spans]
    return {
        "count": len(spans),
        "owners": [span.customer_no for span in spans],
        "firsts": [first for first, _ in minutes],
        "lasts": [last for _, last in minutes],
        "customers": sorted({span.customer_no for span in spans}),
        "low": min(first for first, _ in minutes),
        "high": max(last for _, last in minutes),
    }


def seq_parameters(stored_seqs: Mapping[int, int]) -> dict[str, Any]:
    """Rows of a shard that is not named have no batch that is stored in full."""
    shards = dict(stored_seqs) or {0: 0}
    return {"shards": list(shards), "seqs": list(shards.values())}
