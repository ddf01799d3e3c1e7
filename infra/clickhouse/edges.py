"""Parts of minutes: what stored minutes are too coarse for, read from the facts about events.

A meter takes a fact iff it has an effect and the meter's rule takes its data; what it adds counts times the effect.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.taken import taken_from
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import EPOCH, MINUTE_MICROS, to_micros

MINUTE = timedelta(minutes=1)
EDGES_A_QUERY = 500  # their parameters stay below the 128 KiB that ClickHouse takes
ROWS_A_BLOCK = 10_000
#: Events that may stand in the partial minutes of one query of usage.
MAX_EDGE_EVENTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A part [start, end) of one minute, of one customer or (None) of all."""

    tenant_no: int
    meter: MeterEntry
    customer_no: int | None
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeValue:
    """What one fact adds to the meter of the edge that stands at `index` in the list of edges.

    `effect` is 1 or, of a fact that takes an event back, -1; `value` is times the effect already.
    """

    index: int
    customer_no: int
    shard: int
    groups: tuple[str, ...]
    effect: int
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


def edge_values(
    client: Client, edges: Sequence[Edge], *, limit: int | None = None, shard: int = 0, shards: int = 1
) -> Iterator[EdgeValue]:
    """What the facts at the edges add, in bounded blocks. All edges name a customer, or none does.

    Only what was stored by the shards that are `shard` modulo `shards`; as given, by all. Raises Reject
    `usage.edge_too_large` when more than `limit` events lie in one page of edges.
    """
    for offset in range(0, len(edges), EDGES_A_QUERY):
        page = edges[offset : offset + EDGES_A_QUERY]
        for seen, (place, customer_no, stored_by, effect, text) in enumerate(_rows(client, page, shard, shards)):
            if seen == limit:
                raise Reject(
                    "usage.edge_too_large", "from and to cut a minute with too many events; take whole minutes"
                )
            taken = taken_from(page[place].meter, text)
            if taken is not None:
                groups, value = taken
                yield EdgeValue(
                    index=offset + place,
                    customer_no=customer_no,
                    shard=stored_by,
                    groups=groups,
                    effect=effect,
                    value=value if effect > 0 else value.copy_negate(),
                )


def _rows(client: Client, edges: Sequence[Edge], shard: int, shards: int) -> Iterator[tuple[int, int, int, int, str]]:
    """(place in `edges`, customer, shard, effect, data) of the facts with an effect at the edges."""
    owners = [edge.customer_no or 0 for edge in edges]
    all_customers = not any(owners)
    assert all_customers or all(owners), "edges of one customer and edges of all don't mix"
    starts = [to_micros(edge.start) for edge in edges]
    minutes = [start // MINUTE_MICROS * MINUTE_MICROS for start in starts]
    types = sorted({edge.meter.event_type for edge in edges})
    blocks = client.query_row_block_stream(
        "WITH wanted AS (SELECT place, tenant, owner, {types:Array(String)}[kind] AS type, at, first, last"
        " FROM (SELECT 1) ARRAY JOIN {places:Array(UInt32)} AS place, {tenants:Array(UInt32)} AS tenant,"
        " {owners:Array(UInt64)} AS owner, {kinds:Array(UInt32)} AS kind,"
        " {minutes:Array(Int64)} AS at, {starts:Array(Int64)} AS first,"
        " {ends:Array(Int64)} AS last)"
        " SELECT w.place, e.customer_no, e.shard, e.effect, e.data FROM"
        " (SELECT tenant_no, type, customer_no, shard, effect, data,"
        " toUnixTimestamp64Micro(occurred_at) AS micros, micros - positiveModulo(micros, 60000000) AS at,"
        " if({all_customers:Bool}, toUInt64(0), customer_no) AS owner FROM events FINAL"
        " WHERE tenant_no IN {tenants:Array(UInt32)} AND type IN {types:Array(String)} AND effect <> 0"
        " AND ({all_customers:Bool} OR customer_no IN {customers:Array(UInt64)})"
        " AND shard % {shards:UInt16} = {shard:UInt16}"
        # The hour is a part of the table's key: only the hours with an edge are read. Before 1970 all are one to it.
        " AND toStartOfHour(occurred_at) IN"
        "  arrayMap(minute -> toStartOfHour(fromUnixTimestamp64Micro(minute, 'UTC')), {minutes:Array(Int64)})) AS e"
        " INNER JOIN wanted AS w ON e.tenant_no = w.tenant AND e.type = w.type AND e.owner = w.owner AND e.at = w.at"
        " WHERE e.micros >= w.first AND e.micros < w.last",
        parameters={
            "types": types,
            "places": list(range(len(edges))),
            "tenants": [edge.tenant_no for edge in edges],
            "owners": owners,
            "kinds": [types.index(edge.meter.event_type) + 1 for edge in edges],
            "minutes": minutes,
            "starts": starts,
            "ends": [to_micros(edge.end) for edge in edges],
            "all_customers": all_customers,
            "customers": sorted(set(owners)),
            "shard": shard,
            "shards": shards,
        },
        settings={"max_block_size": ROWS_A_BLOCK},
    )
    with blocks:
        for block in blocks:
            yield from block
