"""Whole minutes of usage that shards have stored of given periods: what new entitlement counters start from."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.clickhouse.client import Client
from schemas.instants import to_micros

SPANS_A_QUERY = 5_000  # their parameters stay below the 128 KiB that ClickHouse takes
_LAST_SECOND = to_micros(datetime.fromisoformat("2200-01-01T00:00:00Z")) // 1_000_000  # no event is later


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Usage of one meter by one customer from `start` to `end`: microseconds since 1970, half-open, whole minutes.

    `key` comes back with the answer: the span's place in the caller's list.
    """

    key: int
    customer_no: int
    meter_no: int
    revision: int
    start: int
    end: int


def stored_minutes(
    client: Client, *, shard: int, shards: int, spans: Sequence[Span]
) -> dict[int, dict[int, tuple[int, Decimal]]]:
    """{key: {shard: (events, sum of values)}} of the shards that are `shard` modulo `shards`. None stored: no key."""
    found: dict[int, dict[int, tuple[int, Decimal]]] = defaultdict(dict)
    ordered = sorted(spans, key=lambda span: (span.start, span.key))
    for offset in range(0, len(ordered), SPANS_A_QUERY):
        page = ordered[offset : offset + SPANS_A_QUERY]
        starts = [span.start // 1_000_000 for span in page]
        ends = [min(span.end // 1_000_000, _LAST_SECOND) for span in page]
        rows = client.query(
            "WITH wanted AS (SELECT key, customer, meter, revision, first, last FROM (SELECT 1) ARRAY JOIN"
            " {keys:Array(UInt64)} AS key, {customers:Array(UInt64)} AS customer, {meters:Array(UInt32)} AS meter,"
            " {revisions:Array(UInt32)} AS revision, {starts:Array(Int64)} AS first, {ends:Array(Int64)} AS last)"
            " SELECT w.key, u.shard, sum(u.event_count), sum(u.total)"
            " FROM (SELECT meter_no, revision, customer_no, minute, shard, event_count, total FROM usage_minutes FINAL"
            " WHERE shard % {shards:UInt16} = {shard:UInt16} AND meter_no IN {meters:Array(UInt32)}"
            " AND customer_no IN {customers:Array(UInt64)}"
            " AND minute >= fromUnixTimestamp64Second({low:Int64}) AND minute < fromUnixTimestamp64Second({high:Int64})"
            ") AS u INNER JOIN wanted AS w"
            " ON u.customer_no = w.customer AND u.meter_no = w.meter AND u.revision = w.revision"
            " WHERE toUnixTimestamp64Second(u.minute) >= w.first AND toUnixTimestamp64Second(u.minute) < w.last"
            " GROUP BY w.key, u.shard",
            parameters={
                "keys": [span.key for span in page],
                "customers": [span.customer_no for span in page],
                "meters": [span.meter_no for span in page],
                "revisions": [span.revision for span in page],
                "starts": starts,
                "ends": ends,
                "low": min(starts),
                "high": max(ends),
                "shard": shard,
                "shards": shards,
            },
        ).result_rows
        for key, stored_by, count, total in rows:
            found[key][stored_by] = (count, total)
    return dict(found)
