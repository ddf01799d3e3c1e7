"""What is asked of a meter's usage, and where a row stands in the answer."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from infra.clickhouse.client import numbers
from schemas.catalogue import MeterEntry
from schemas.instants import to_micros
from schemas.meters import Aggregation

#: Windows of one query: as a parameter their bounds stay below what ClickHouse takes; more are read in several.
WINDOWS_A_QUERY = 5_000

#: A meter's full group, in the order of its group_by: texts as `matching.group_text` makes them.
GroupKey = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What of a meter is asked. `bounds` are the windows' ends, ascending; only [start, end) counts within them.

    Its values are aggregated as the meter says, or as `aggregation` does: one of those that BUCKET_AGGREGATIONS allows.
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
    aggregation: Aggregation | None = None

    @property
    def aggregated_by(self) -> Aggregation:
        own = self.meter.aggregation
        # What a count counts has no value: its sum is the count.
        return own if self.aggregation is None or own is Aggregation.COUNT else self.aggregation


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """One row's place in the order of an answer. `customer_no` is 0 where customers are not told apart."""

    window_start: datetime
    customer_no: int
    groups: tuple[bytes, ...]  # group texts as UTF-8: ClickHouse's order of strings is that of their bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Usage of one customer on one meter in [start, end)."""

    customer_no: int
    meter_no: int
    start: datetime
    end: datetime


@dataclass(slots=True)
class SpanUsage:
    """Usage of a span as a whole and by the meter's full groups. Only counts and sums of groups add up to the whole.

    `whole` is None and `groups` empty when there is none at all.
    """

    whole: Decimal | None = None
    groups: dict[GroupKey, Decimal] = field(default_factory=dict[GroupKey, Decimal])


def positions(query: UsageQuery) -> list[int]:
    """Where the groups that are asked for stand among the meter's, from 0."""
    return [query.meter.group_by.index(name) for name in query.group_by]


def window_of(bounds: Sequence[datetime], instant: datetime) -> datetime:
    """The start of the window that holds the instant."""
    return bounds[bisect_right(bounds, instant) - 1]


def slices(query: UsageQuery, after: UsageKey | None) -> Iterator[UsageQuery]:
    """The query in parts of up to WINDOWS_A_QUERY windows, in their order: those that lie in [start, end), from the
    window of `after` on."""
    begins = query.start if after is None else max(query.start, after.window_start)
    from_window = max(0, bisect_right(query.bounds, begins) - 1)
    to_window = bisect_left(query.bounds, query.end)
    for first in range(from_window, to_window, WINDOWS_A_QUERY):
        bounds = query.bounds[first : min(first + WINDOWS_A_QUERY, to_window) + 1]
        yield replace(query, bounds=bounds, start=max(query.start, bounds[0]), end=min(query.end, bounds[-1]))


def selection(query: UsageQuery, after: UsageKey | None, limit: int) -> dict[str, object]:
    """The parameters of what both tables are asked for: whose rows, how grouped, and which page. Micros since 1970."""
    return {
        "by_customer": query.by_customer,
        "places": [position + 1 for position in positions(query)],
        "meter_no": query.meter.meter_no,
        "revision": query.meter.revision,
        "all_customers": query.customer_nos is None,
        "customer_nos": list(query.customer_nos or ()),
        "filter_places": [query.meter.group_by.index(name) + 1 for name in query.filters],
        "filter_texts": [list(texts) for texts in query.filters.values()],
        "first_page": after is None,
        "after_bucket": 0 if after is None else to_micros(after.window_start),
        "after_customer": 0 if after is None else after.customer_no,
        "after_groups": [] if after is None else [text.decode() for text in after.groups],
        "limit": limit,
    }


#: Whose rows: the meter's at its revision, of the customers and groups that are let through.
SELECTED_SQL = (
    "meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
    " AND ({all_customers:Bool} OR customer_no IN {customer_nos:Array(UInt64)})"
    " AND arrayAll((place, texts) -> has(texts, group_values[place]),"
    "  {filter_places:Array(UInt8)}, {filter_texts:Array(Array(String))})"
)
#: What is told apart.
KEYS_SQL = (
    "if({by_customer:Bool}, customer_no, 0) AS customer,"
    " arrayMap(place -> group_values[place], {places:Array(UInt8)}) AS groups"
)
#: What comes after the last row of the page before.
AFTER_SQL = (
    "({first_page:Bool} OR (bucket, customer, groups) >"
    " ({after_bucket:Int64}, {after_customer:UInt64}, {after_groups:Array(String)}))"
)

#: Rows of the meters of some spans, at their revisions, and of their customers.
OF_METERS_SQL = (
    "(meter_no, revision) IN {meters:Array(Tuple(UInt32, UInt32))} AND customer_no IN {customers:Array(UInt64)}"
)
#: The spans as a table, whose `place` is that in the list.
SPANS_SQL = (
    "(SELECT span.1 AS place, span.2 AS meter_no, span.3 AS customer_no, span.4 AS first, span.5 AS last FROM"
    " (SELECT arrayJoin(arrayZip({places:Array(UInt32)}, {span_meters:Array(UInt32)},"
    "  {span_customers:Array(UInt64)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})) AS span))"
)


def span_parameters(
    meters: Mapping[int, MeterEntry], spans: Sequence[Span], bounds: Sequence[tuple[int, int]] | None = None
) -> dict[str, object]:
    """Parameters of OF_METERS_SQL and SPANS_SQL, and `first` and `last` of all spans.

    `bounds` are the spans' own, in the unit that the query compares with; not given, they are in micros since 1970.
    """
    ends = bounds or [(to_micros(span.start), to_micros(span.end)) for span in spans]
    firsts, lasts = [first for first, _ in ends], [last for _, last in ends]
    meter_nos = sorted({span.meter_no for span in spans})
    return {
        "meters": [(meter_no, meters[meter_no].revision) for meter_no in meter_nos],
        "customers": numbers(sorted({span.customer_no for span in spans})),
        "first": min(firsts),
        "last": max(lasts),
        "places": numbers(range(len(spans))),
        "span_meters": numbers(span.meter_no for span in spans),
        "span_customers": numbers(span.customer_no for span in spans),
        "firsts": numbers(firsts),
        "lasts": numbers(lasts),
    }
