"""Whether meters took events: by the rows of windows that the batches which decided them left."""

from collections.abc import Iterable
from typing import NamedTuple

from infra.clickhouse.client import Client

WINDOWS_A_QUERY = 500


class MinuteKey(NamedTuple):
    """A minute that one batch of the flow added to; of meters that add up."""

    meter_no: int
    revision: int
    customer_no: int
    minute_seconds: int
    groups: tuple[str, ...]
    shard: int
    seq: int


class ValueKey(NamedTuple):
    """A value that a meter took from one event; of meters that don't add up."""

    meter_no: int
    revision: int
    customer_no: int
    occurred_micros: int
    partition: int
    offset: int
    place: int  # in the batch at that offset


WindowKey = MinuteKey | ValueKey


def stored_windows(client: Client, keys: Iterable[WindowKey]) -> set[WindowKey]:
    """Those of the keys that are stored.

    What a batch added to a meter follows from its events alone, so an event is counted by a meter's revision just when
    the batch that decided it added to the meter's minute of that customer and group.
    """
    distinct = list(dict.fromkeys(keys))
    minutes = [key for key in distinct if isinstance(key, MinuteKey)]
    values = [key for key in distinct if isinstance(key, ValueKey)]
    found: set[WindowKey] = set()
    for start in range(0, len(minutes), WINDOWS_A_QUERY):
        found |= _stored_minutes(client, minutes[start : start + WINDOWS_A_QUERY])
    for start in range(0, len(values), WINDOWS_A_QUERY):
        found |= _stored_values(client, values[start : start + WINDOWS_A_QUERY])
    return found & set(distinct)


def _stored_minutes(client: Client, page: list[MinuteKey]) -> set[WindowKey]:
    rows = client.query(
        "SELECT DISTINCT meter_no, revision, customer_no, toUnixTimestamp64Second(minute) AS second, group_values,"
        " shard, seq FROM usage_minutes"
        " WHERE meter_no IN {meters:Array(UInt32)} AND customer_no IN {customers:Array(UInt64)}"
        " AND minute >= fromUnixTimestamp64Second({first:Int64}) AND minute <= fromUnixTimestamp64Second({last:Int64})"
        " AND (meter_no, revision, customer_no, second, shard, seq) IN"
        " {keys:Array(Tuple(UInt32, UInt32, UInt64, Int64, UInt16, UInt64))}",
        parameters={
            "meters": sorted({key.meter_no for key in page}),
            "customers": sorted({key.customer_no for key in page}),
            "first": min(key.minute_seconds for key in page),
            "last": max(key.minute_seconds for key in page),
            "keys": [(*key[:4], *key[5:]) for key in page],
        },
    ).result_rows
    return {MinuteKey(m, r, c, second, tuple(groups), shard, seq) for m, r, c, second, groups, shard, seq in rows}


def _stored_values(client: Client, page: list[ValueKey]) -> set[WindowKey]:
    rows = client.query(
        "SELECT DISTINCT meter_no, revision, customer_no, toUnixTimestamp64Micro(occurred_at) AS micros,"
        " kafka_partition, kafka_offset, kafka_index FROM usage_values"
        " WHERE meter_no IN {meters:Array(UInt32)} AND customer_no IN {customers:Array(UInt64)} AND effect = 1"
        " AND occurred_at >= fromUnixTimestamp64Micro({first:Int64}, 'UTC')"
        " AND occurred_at <= fromUnixTimestamp64Micro({last:Int64}, 'UTC')"
        " AND (meter_no, revision, customer_no, micros, kafka_partition, kafka_offset, kafka_index) IN"
        " {keys:Array(Tuple(UInt32, UInt32, UInt64, Int64, UInt16, Int64, UInt32))}",
        parameters={
            "meters": sorted({key.meter_no for key in page}),
            "customers": sorted({key.customer_no for key in page}),
            "first": min(key.occurred_micros for key in page),
            "last": max(key.occurred_micros for key in page),
            "keys": page,
        },
    ).result_rows
    return {ValueKey(*row) for row in rows}
