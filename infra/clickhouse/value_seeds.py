"""Values stored one by one of given periods: what new counters of min, max, latest and unique_count start from."""

from collections.abc import Sequence
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.seeds import Span
from infra.clickhouse.values import AGGREGATES, PLACE_SQL, bounded_memory, kept_sql
from schemas.counters import Rank
from schemas.meters import Aggregation

SPANS_A_QUERY = 2_000  # their parameters stay below the 128 KiB that ClickHouse takes
MAX_MICROS = (1 << 53) - 1  # beyond any time of an event
SETTINGS = {"max_memory_usage": 2 << 30}

_OF_SPANS = (
    "meter_no IN {meters:Array(UInt32)} AND customer_no IN {customers:Array(UInt64)}"
    " AND toUnixTimestamp64Micro(occurred_at) >= {low:Int64} AND toUnixTimestamp64Micro(occurred_at) < {high:Int64}"
)
_WANTED = (
    "(SELECT key, customer_no, meter_no, revision, first, last FROM (SELECT 1) ARRAY JOIN"
    " {keys:Array(UInt64)} AS key, {owners:Array(UInt64)} AS customer_no, {of_meters:Array(UInt32)} AS meter_no,"
    " {revisions:Array(UInt32)} AS revision, {starts:Array(Int64)} AS first, {ends:Array(Int64)} AS last) AS wanted"
    " USING (meter_no, revision, customer_no) WHERE micros >= first AND micros < last"
)


def stored_extremes(
    client: Client, *, aggregation: Aggregation, shard: int, shards: int, spans: Sequence[Span]
) -> dict[int, tuple[Decimal, Rank]]:
    """By key, the value of min, max or latest over the partitions that are `shard` modulo `shards`, and its rank. No
    value: no key."""
    rank = {
        Aggregation.MAX: "tuple(max(value))",
        Aggregation.MIN: "tuple(-min(value))",
        Aggregation.LATEST: f"max({PLACE_SQL})",
    }[aggregation]
    found: dict[int, tuple[Decimal, Rank]] = {}
    of_shard = f"{_OF_SPANS} AND kafka_partition % {{shards:UInt16}} = {{shard:UInt16}}"
    for offset in range(0, len(spans), SPANS_A_QUERY):
        rows = client.query(
            f"SELECT key, {AGGREGATES[aggregation]}, {rank}"  # noqa: S608 - texts of this package
            " FROM (SELECT *, toUnixTimestamp64Micro(occurred_at) AS micros"
            f"  FROM usage_values WHERE {kept_sql(of_shard)}) AS stored INNER JOIN {_WANTED} GROUP BY key",
            parameters={**_parameters(spans[offset : offset + SPANS_A_QUERY]), "shard": shard, "shards": shards},
        ).result_rows
        for key, value, place in rows:
            found[key] = (value, tuple(Decimal(number) for number in place))
    return found


def about_how_many_texts(client: Client, *, shard: int, shards: int, spans: Sequence[Span]) -> dict[int, int]:
    """By key, how many different texts shards that are `shard` modulo `shards` have stored, to some percent."""
    found: dict[int, int] = {}
    for offset in range(0, len(spans), SPANS_A_QUERY):
        rows = client.query(
            "SELECT key, uniq(text) FROM (SELECT *, toUnixTimestamp64Micro(occurred_at) AS micros"  # noqa: S608 - as above
            f" FROM usage_values WHERE {_OF_SPANS} AND shard % {{shards:UInt16}} = {{shard:UInt16}}) AS stored"
            f" INNER JOIN {_WANTED} GROUP BY key",
            parameters={**_parameters(spans[offset : offset + SPANS_A_QUERY]), "shard": shard, "shards": shards},
        ).result_rows
        found |= {row[0]: row[1] for row in rows}
    return found


def stored_texts(
    client: Client, *, shard: int, shards: int, spans: Sequence[Span]
) -> dict[int, dict[int, dict[bytes, int]]]:
    """{key: {shard: {digest of a text: events}}} of the shards that are `shard` modulo `shards`. What one shard has
    stored may be taken back by another: of such a text it has fewer than none. The spans fit one query.

    Raises Reject `usage.too_large` when ClickHouse would need more memory than a query may.
    """
    found: dict[int, dict[int, dict[bytes, int]]] = {}
    with bounded_memory():
        rows = client.query(
            "SELECT key, stored.shard AS stored_by, hex(substring(SHA256(text), 1, 16)) AS digest, sum(effect) AS refs"  # noqa: S608 - as above
            " FROM (SELECT *, toUnixTimestamp64Micro(occurred_at) AS micros"
            f" FROM usage_values FINAL WHERE {_OF_SPANS} AND shard % {{shards:UInt16}} = {{shard:UInt16}}) AS stored"
            f" INNER JOIN {_WANTED} GROUP BY key, stored_by, digest HAVING refs <> 0",
            parameters={**_parameters(spans), "shard": shard, "shards": shards},
            settings=SETTINGS,
        ).result_rows
    for key, stored_by, digest, refs in rows:
        found.setdefault(key, {}).setdefault(stored_by, {})[bytes.fromhex(digest)] = refs
    return found


def _parameters(spans: Sequence[Span]) -> dict[str, object]:
    starts, ends = [span.start for span in spans], [min(span.end, MAX_MICROS) for span in spans]
    return {
        "keys": [span.key for span in spans],
        "owners": [span.customer_no for span in spans],
        "of_meters": [span.meter_no for span in spans],
        "revisions": [span.revision for span in spans],
        "starts": starts,
        "ends": ends,
        "low": min(starts),
        "high": max(ends),
        "meters": sorted({span.meter_no for span in spans}),
        "customers": sorted({span.customer_no for span in spans}),
    }
