"""Usage of weighted_sum meters: the time average of a level.

Every customer and full group of the meter is a series of its own. An event sets its level, which holds until the next
event of the series (ties as in `latest`); before its first event a series does not exist, and its level is 0. The
answer for several series is the sum of their averages.

ClickHouse turns levels into changes and adds those up: a change d at an instant t adds d x (end - t) to the integral
of every window that ends after it. So what comes back is one row a key and window in which anything changed, and the
level is carried on from window to window here. 38 digits, 300 years in microseconds and as many events as fit the
query's memory stay below 10^75 units of 10^-12, which Decimal(76, 12) holds; a product that did not fit would raise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

from infra.clickhouse.client import Client
from infra.clickhouse.usage_query import (
    KEYS_SQL,
    OF_METERS_SQL,
    SELECTED_SQL,
    SPANS_SQL,
    Span,
    SpanUsage,
    UsageKey,
    UsageQuery,
    selection,
    slices,
    span_parameters,
)
from infra.clickhouse.values import (
    PLACE_SQL,
    SETTINGS,
    WITHIN_SQL,
    bounded_memory,
    kept_sql,
)
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import to_micros
from schemas.money import EXACT, MAX_SCALE, round_ratio

#: Customers and groups that one query tells apart: all of them have a row in every window.
MAX_SERIES = 20_000

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)  # no event is earlier: DateTime64 begins here

#: From sorted (place, value) pairs `inside` and the level carried in at `first`: `changes` as (instant, difference).
#: A row that stands twice changes nothing the second time.
CHANGES_SQL = (
    "arrayConcat(if(carried > 0, [(first, carry)], []),"
    " arrayMap(event -> (tupleElement(event.1, 1), event.2), inside)) AS levels,"
    " arrayMap((at, level, former) -> (at, level - former), levels.1, levels.2,"
    "  arrayShiftRight(levels.2, 1, toDecimal256(0, 12))) AS changes"
)
SERIES_SQL = (
    f"argMaxIf(value, {PLACE_SQL}, toUnixTimestamp64Micro(occurred_at) < first) AS carry,"
    " countIf(toUnixTimestamp64Micro(occurred_at) < first) AS carried,"
    f" arraySort(groupArrayIf(({PLACE_SQL}, value), toUnixTimestamp64Micro(occurred_at) >= first)) AS inside"
)

Key = tuple[int, tuple[bytes, ...]]  # customer (0: all) and groups


@dataclass(frozen=True, slots=True)
class Change:
    """What changed for one key in one window: the sum of the changes, and of each times the micros from `start`."""

    key: Key
    difference: Decimal
    moment: Decimal


def window_values(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Up to `limit` rows after `after`, in the order of their keys: from its first event on a series has a row in every
    window, whatever its level. Raises Reject `usage.too_large` and `usage.too_many_groups`."""
    found: dict[UsageKey, Decimal] = {}
    for part in slices(query, after):
        if len(found) >= limit:
            break
        for key, value in _averages(part, _changes(client, part, limit)):
            if after is None or key > after:
                found[key] = value
                if len(found) >= limit:
                    break
    return found


def _averages(query: UsageQuery, changes: Mapping[datetime, Sequence[Change]]) -> Iterator[tuple[UsageKey, Decimal]]:
    """Every key of every window, in order. `changes` may end early; then the windows after its last say too little."""
    levels: dict[Key, Decimal] = {}
    for window_start, window_end in pairwise(query.bounds):
        first, last = max(window_start, query.start), min(window_end, query.end)
        changed = {change.key: change for change in changes.get(window_start, ())}
        for key in changed.keys() - levels.keys():
            levels[key] = Decimal(0)
        length = Decimal(to_micros(last) - to_micros(first))
        remaining = Decimal(to_micros(last) - to_micros(query.start))
        for key in sorted(levels):
            integral = EXACT.multiply(levels[key], length)
            change = changed.get(key)
            if change is not None:
                integral = EXACT.add(integral, EXACT.multiply(change.difference, remaining))
                integral = EXACT.subtract(integral, change.moment)
                levels[key] = EXACT.add(levels[key], change.difference)
            yield UsageKey(window_start, *key), round_ratio(integral, length, MAX_SCALE)


def _changes(client: Client, query: UsageQuery, limit: int) -> dict[datetime, list[Change]]:
    """By window, up to as many as an answer of `limit` rows can need: each is a row of the answer, or of a key that
    stands before the page in its first window."""
    with bounded_memory():
        rows = client.query(
            "WITH {start:Int64} AS first"  # noqa: S608 - texts of this package
            " SELECT bucket, customer, groups, toString(sum(difference)), toString(sum(difference * moment)) FROM"
            " (SELECT roundDown(change.1, {bounds:Array(Int64)}) AS bucket, customer, groups, change.2 AS difference,"
            "  change.1 - first AS moment FROM"
            f" (SELECT {KEYS_SQL}, {CHANGES_SQL} FROM"
            f"  (SELECT customer_no, group_values, {SERIES_SQL} FROM usage_values"
            f"   WHERE {kept_sql(f'{SELECTED_SQL} AND {WITHIN_SQL}')} GROUP BY customer_no, group_values))"
            " ARRAY JOIN changes AS change)"
            " GROUP BY bucket, customer, groups ORDER BY bucket, customer, groups LIMIT {limit:UInt64}",
            parameters=selection(query, None, limit + MAX_SERIES + 1)
            | {
                "bounds": [to_micros(bound) for bound in query.bounds],
                "start": to_micros(query.start),
                "first": to_micros(EARLIEST),
                "last": to_micros(query.end),
            },
            settings=SETTINGS,
        ).result_rows
    starts = {to_micros(bound): bound for bound in query.bounds}
    found: dict[datetime, list[Change]] = {}
    series: set[Key] = set()
    for bucket, customer, groups, difference, moment in rows:
        key = customer, tuple(text.encode() for text in groups)
        series.add(key)
        if len(series) > MAX_SERIES:
            raise Reject.at(
                "/group_by",
                "usage.too_many_groups",
                f"weighted_sum tells at most {MAX_SERIES} customers and groups apart; take a customer, or filter.",
            )
        found.setdefault(starts[bucket], []).append(Change(key, Decimal(difference), Decimal(moment)))
    return found


def span_values(client: Client, *, meters: Mapping[int, MeterEntry], spans: Sequence[Span]) -> dict[Span, SpanUsage]:
    """What each span holds, by group and as a whole, with the levels carried in. One query for all."""
    found = {span: SpanUsage() for span in spans}
    if not spans:
        return found
    with bounded_memory():
        rows = client.query(
            "SELECT place, group_values, toString(sum(change.2 * (last - change.1))) FROM"  # noqa: S608 - as above
            f" (SELECT place, group_values, last, {CHANGES_SQL} FROM"
            f"  (SELECT place, group_values, wanted.first AS first, wanted.last AS last, {SERIES_SQL}"
            f"   FROM (SELECT * FROM usage_values WHERE {kept_sql(f'{OF_METERS_SQL} AND {WITHIN_SQL}')}) AS stored"
            f"   INNER JOIN {SPANS_SQL} AS wanted USING (meter_no, customer_no)"
            "   WHERE toUnixTimestamp64Micro(occurred_at) < wanted.last GROUP BY place, group_values, first, last))"
            " ARRAY JOIN changes AS change GROUP BY place, group_values",
            parameters=span_parameters(meters, spans) | {"first": to_micros(EARLIEST)},
            settings=SETTINGS,
        ).result_rows
    integrals: dict[Span, Decimal] = {}
    for place, groups, text in rows:
        span, integral = spans[place], Decimal(text)
        found[span].groups[tuple(groups)] = round_ratio(integral, _length(span), MAX_SCALE)
        integrals[span] = EXACT.add(integrals.get(span, Decimal(0)), integral)
    for span, integral in integrals.items():
        found[span].whole = round_ratio(integral, _length(span), MAX_SCALE)
    return found


def _length(span: Span) -> Decimal:
    return Decimal(to_micros(span.end) - to_micros(span.start))
