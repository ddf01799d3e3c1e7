"""Which usage of before an instant was stored after certain batches: late events, and events that were taken back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.clickhouse.client import Client, numbers
from infra.clickhouse.usage_query import OF_METERS_SQL
from schemas.billing import LATE_USAGE_HORIZON, Watched
from schemas.catalogue import MeterEntry
from schemas.instants import from_micros, to_micros
from schemas.meters import ADDITIVE


def find_late(client: Client, watched: Sequence[Watched], shards: Collection[int]) -> dict[tuple[str, int], datetime]:
    """By (subscription_id, meter_no), the first instant before `until` at which a batch beyond those that were billed
    may have changed usage, no longer before it than the horizon. It may name some that have not changed, and misses
    none.

    `shards` are all that have stored anything.
    """
    by_customer: dict[int, list[Watched]] = {}
    for each in watched:
        by_customer.setdefault(each.customer_no, []).append(each)
    meters = {meter.meter_no: meter for each in watched for meter in each.meters}
    late: dict[tuple[str, int], datetime] = {}
    for customer_no, meter_no, shard, seq, first in _late_rows(client, watched, meters, sorted(shards)):
        for each in by_customer[customer_no]:
            is_watched = any(meter.meter_no == meter_no for meter in each.meters)
            if is_watched and seq > each.seqs.get(shard, 0) and from_micros(first) < each.until:
                key = (each.subscription_id, meter_no)
                late[key] = min(late.get(key, each.until), from_micros(first))
    return late


def _late_rows(
    client: Client, watched: Sequence[Watched], meters: Mapping[int, MeterEntry], shards: Sequence[int]
) -> Iterator[tuple[int, int, int, int, int]]:
    """(customer_no, meter_no, shard, last seq, first instant) of rows that may be late for one of those watched."""
    for table, time, own in (
        ("usage_minutes", "minute", [meter for meter in meters.values() if meter.aggregation in ADDITIVE]),
        ("usage_values", "occurred_at", [meter for meter in meters.values() if meter.aggregation not in ADDITIVE]),
    ):
        if own:
            rows = client.query(
                "SELECT customer_no, meter_no, shard, max(seq),"  # noqa: S608 - texts of this module
                f" toUnixTimestamp64Micro(toDateTime64(min({time}), 6, 'UTC'))"
                f" FROM {table} WHERE {OF_METERS_SQL}"
                " AND seq > {least:UInt64} AND seq > transform(shard, {shards:Array(UInt16)}, {seqs:Array(UInt64)}, 0)"
                f" AND {time} >= fromUnixTimestamp64Micro({{since:Int64}})"
                f" AND {time} < fromUnixTimestamp64Micro(transform(customer_no, {{customers:Array(UInt64)}},"
                " {untils:Array(Int64)}, toInt64(0))) GROUP BY customer_no, meter_no, shard",
                parameters=_parameters(watched, own, shards),
            ).result_rows
            yield from (tuple(row) for row in rows)


def _parameters(watched: Sequence[Watched], meters: Sequence[MeterEntry], shards: Sequence[int]) -> dict[str, Any]:
    """Of each shard the least of the batches that anybody's bills go up to, of each customer the latest instant."""
    seqs = [min(each.seqs.get(shard, 0) for each in watched) for shard in shards]
    untils: dict[int, int] = {}
    for each in watched:
        untils[each.customer_no] = max(untils.get(each.customer_no, 0), to_micros(each.until))
    return {
        "meters": [(meter.meter_no, meter.revision) for meter in meters],
        "customers": numbers(untils),
        "untils": numbers(untils.values()),
        "shards": list(shards),
        "seqs": seqs,
        "least": min(seqs),  # what an index can do with
        "since": to_micros(min(each.until for each in watched) - LATE_USAGE_HORIZON),
    }
