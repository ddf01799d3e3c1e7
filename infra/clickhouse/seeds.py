"""Usage that one shard has stored of given periods: what a new entitlement counter starts from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from infra.clickhouse.client import Client

SPANS_A_QUERY = 100  # their parameters stay below the 128 KiB that ClickHouse takes
HOUR_MICROS = 3_600_000_000
ROWS_A_BLOCK = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Usage of one meter by one customer from `start` to `end` (microseconds since 1970, half-open).

    `key` comes back with the answer: the span's place in the caller's list.
    """

    key: int
    tenant_no: int
    customer_no: int
    meter_no: int
    revision: int
    event_type: str
    start: int
    end: int


def stored_minutes(client: Client, shard: int, spans: Sequence[Span]) -> dict[int, tuple[int, Decimal]]:
    """Events and the sum of values by key, of spans that begin and end on whole minutes. None stored: no key."""
    found: dict[int, tuple[int, Decimal]] = {}
    for start in range(0, len(spans), SPANS_A_QUERY):
        page = spans[start : start + SPANS_A_QUERY]
        rows = client.query(
            "WITH wanted AS (SELECT key, customer, meter, revision, first, last FROM (SELECT 1) ARRAY JOIN"
            " {keys:Array(UInt64)} AS key, {customers:Array(UInt64)} AS customer, {meters:Array(UInt32)} AS meter,"
            " {revisions:Array(UInt32)} AS revision, {starts:Array(Int64)} AS first, {ends:Array(Int64)} AS last)"
            " SELECT w.key, sum(u.event_count), sum(u.total)"
            " FROM (SELECT meter_no, revision, customer_no, minute, event_count, total FROM usage_minutes FINAL"
            " WHERE shard = {shard:UInt16} AND meter_no IN {meters:Array(UInt32)}"
            " AND customer_no IN {customers:Array(UInt64)}) AS u INNER JOIN wanted AS w"
            " ON u.customer_no = w.customer AND u.meter_no = w.meter AND u.revision = w.revision"
            " WHERE toUnixTimestamp64Second(u.minute) * 1000000 >= w.first"
            " AND toUnixTimestamp64Second(u.minute) * 1000000 < w.last GROUP BY w.key",
            parameters=_columns(page) | {"shard": shard},
        ).result_rows
        found |= {key: (count, total) for key, count, total in rows}
    return found


def stored_data(client: Client, shard: int, spans: Sequence[Span]) -> Iterator[tuple[int, str]]:
    """(key, data) of every counted event inside the spans, whatever its meters; in bounded blocks.

    Each span lies within one minute.
    """
    for start in range(0, len(spans), SPANS_A_QUERY):
        page = spans[start : start + SPANS_A_QUERY]
        blocks = client.query_row_block_stream(
            "WITH wanted AS (SELECT key, tenant, customer, type, first, last FROM (SELECT 1) ARRAY JOIN"
            " {keys:Array(UInt64)} AS key, {tenants:Array(UInt32)} AS tenant, {customers:Array(UInt64)} AS customer,"
            " {types:Array(String)} AS type, {starts:Array(Int64)} AS first, {ends:Array(Int64)} AS last)"
            " SELECT w.key, e.data FROM (SELECT tenant_no, type, customer_no, occurred_at, data FROM events FINAL"
            " WHERE shard = {shard:UInt16} AND status = 'counted' AND tenant_no IN {tenants:Array(UInt32)}"
            " AND type IN {types:Array(String)} AND customer_no IN {customers:Array(UInt64)}"
            # The hour is a part of the table's key: only the hours with an edge are read.
            " AND toStartOfHour(occurred_at) IN arrayMap(hour -> toDateTime(hour, 'UTC'), {hours:Array(UInt32)})) AS e"
            " INNER JOIN wanted AS w ON e.tenant_no = w.tenant AND e.customer_no = w.customer AND e.type = w.type"
            " WHERE toUnixTimestamp64Micro(e.occurred_at) >= w.first"
            " AND toUnixTimestamp64Micro(e.occurred_at) < w.last",
            parameters=_columns(page) | {"shard": shard, "hours": sorted({_hour(span) for span in page})},
            settings={"max_block_size": ROWS_A_BLOCK},
        )
        with blocks:
            for block in blocks:
                yield from ((key, data) for key, data in block)


def _hour(span: Span) -> int:
    """The start of the span's hour, in seconds since 1970."""
    return span.start // HOUR_MICROS * 3600


def _columns(spans: Sequence[Span]) -> dict[str, Any]:
    return {
        "keys": [span.key for span in spans],
        "tenants": [span.tenant_no for span in spans],
        "customers": [span.customer_no for span in spans],
        "meters": [span.meter_no for span in spans],
        "revisions": [span.revision for span in spans],
        "types": [span.event_type for span in spans],
        "starts": [span.start for span in spans],
        "ends": [span.end for span in spans],
    }
