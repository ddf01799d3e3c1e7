"""Usage of min, max, latest and unique_count meters, from the values that they took event by event.

`usage_values` has a row an event and one more where the event was taken back; see KEPT_SQL for what is left. A row may
stand there twice until it is merged, which changes none of these aggregates: no FINAL is needed.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from infra.clickhouse.client import ClickHouseError, Client
from infra.clickhouse.usage_query import (
    AFTER_SQL,
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
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import from_micros, to_micros
from schemas.meters import Aggregation

#: Memory of one query: what must be held is the distinct texts of unique_count and the levels of weighted_sum.
QUERY_MEMORY_BYTES = 2 << 30
SETTINGS = {"max_memory_usage": QUERY_MEMORY_BYTES}
_TOO_LARGE = (
    "usage.too_large",
    "too many values for one answer; take a shorter range, or single customers or groups",
)
_TOO_MUCH = ("(for query)", "Query memory limit")  # in ClickHouse's words

#: The order of `latest`, and of levels: by the event's own time, then by its place in the log.
PLACE_SQL = (
    "(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at),"
    " kafka_partition, kafka_offset, kafka_index)"
)
AGGREGATES = {
    Aggregation.MIN: "min(value)",
    Aggregation.MAX: "max(value)",
    Aggregation.LATEST: f"argMax(value, {PLACE_SQL})",
    Aggregation.UNIQUE_COUNT: "uniqExact(text)",
}

WITHIN_SQL = (
    "occurred_at >= fromUnixTimestamp64Micro({first:Int64}, 'UTC')"
    " AND occurred_at < fromUnixTimestamp64Micro({last:Int64}, 'UTC')"
)


def kept_sql(rows: str) -> str:
    """Of the rows that a condition selects: those that count and that nothing has taken back.

    The condition is on meters, customers and times, which an event and its taking back have in common.
    """
    return (
        f"{rows} AND effect = 1 AND (kafka_partition, kafka_offset, kafka_index) NOT IN"  # noqa: S608 - texts of ours
        f" (SELECT kafka_partition, kafka_offset, kafka_index FROM usage_values WHERE {rows} AND effect = -1)"
    )


@contextmanager
def bounded_memory(refusal: tuple[str, str] = _TOO_LARGE) -> Generator[None]:
    """Raise Reject (as code and detail say) where a query would need more than QUERY_MEMORY_BYTES."""
    try:
        yield
    except ClickHouseError as error:
        if "MEMORY_LIMIT_EXCEEDED" in str(error) and any(words in str(error) for words in _TOO_MUCH):
            raise Reject(*refusal) from error
        raise


def window_values(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Up to `limit` rows after `after`, in the order of their keys. Raises Reject `usage.too_large`."""
    found: dict[UsageKey, Decimal] = {}
    for part in slices(query, after):
        if len(found) >= limit:
            break
        found |= _slice_rows(client, part, after=after, limit=limit - len(found))
    return found


def _slice_rows(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    with bounded_memory():
        rows = client.query(
            "SELECT roundDown(toUnixTimestamp64Micro(occurred_at), {bounds:Array(Int64)}) AS bucket,"  # noqa: S608 - as above
            f" {KEYS_SQL}, toString({AGGREGATES[query.aggregated_by]})"
            f" FROM usage_values WHERE {kept_sql(f'{SELECTED_SQL} AND {WITHIN_SQL}')}"
            " GROUP BY bucket, customer, groups"
            f" HAVING {AFTER_SQL} ORDER BY bucket, customer, groups LIMIT {{limit:UInt64}}",
            parameters=selection(query, after, limit)
            | {
                "bounds": [to_micros(bound) for bound in query.bounds],
                "first": to_micros(query.start),
                "last": to_micros(query.end),
            },
            settings=SETTINGS,
        ).result_rows
    return {
        UsageKey(from_micros(bucket), customer, tuple(text.encode() for text in groups)): Decimal(value)
        for bucket, customer, groups, value in rows
    }


def span_values(
    client: Client, *, aggregation: Aggregation, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> dict[Span, SpanUsage]:
    """What each span holds, by group and as a whole; all their meters are of this aggregation. One query for all."""
    with bounded_memory():
        rows = client.query(
            "SELECT place, group_values, grouping(group_values), toString(" + AGGREGATES[aggregation] + ")"  # noqa: S608 - as above
            f" FROM (SELECT * FROM usage_values WHERE {kept_sql(f'{OF_METERS_SQL} AND {WITHIN_SQL}')}) AS stored"
            f" INNER JOIN {SPANS_SQL} AS wanted USING (meter_no, customer_no)"
            " WHERE toUnixTimestamp64Micro(occurred_at) >= wanted.first"
            " AND toUnixTimestamp64Micro(occurred_at) < wanted.last"
            " GROUP BY GROUPING SETS ((place, group_values), (place))",
            parameters=span_parameters(meters, spans),
            settings=SETTINGS,
        ).result_rows
    found = {span: SpanUsage() for span in spans}
    for place, groups, is_whole, value in rows:
        if is_whole:
            found[spans[place]].whole = Decimal(value)
        else:
            found[spans[place]].groups[tuple(groups)] = Decimal(value)
    return found
