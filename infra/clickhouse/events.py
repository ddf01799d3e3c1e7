"""Stored events and what became of them. Rows of a redone intent may stand twice; here they come out once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from infra.clickhouse.client import Client
from schemas.instants import from_micros, to_micros

WINDOWS_A_QUERY = 500
DUPLICATE = "duplicate"

_MIN_MICROS = to_micros(datetime.fromisoformat("1900-01-01T00:00:00Z"))
_MAX_MICROS = to_micros(datetime.fromisoformat("2200-01-01T00:00:00Z"))

_COLUMNS = (
    "hex(hash), kafka_partition, kafka_offset, kafka_index, shard, seq, toUnixTimestamp64Micro(received_at),"
    " toUnixTimestamp64Micro(occurred_at), source, id, type, subject, data, extensions, customer_no, status, code"
)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """The first copy of an event. `customer_no` 0: unknown subject; `data` and `extensions` are JSON object texts."""

    identity: str  # 32 hexadecimal digits
    partition: int
    offset: int
    index: int
    shard: int
    seq: int
    received_at: datetime
    occurred_at: datetime
    source: str
    id: str
    type: str
    subject: str
    data: str
    extensions: str
    customer_no: int
    status: str
    code: str


@dataclass(frozen=True, slots=True)
class Copies:
    """Later copies of one event. `conflict`: one of them has another type, subject, data or extensions."""

    count: int
    conflict: bool


NO_COPIES = Copies(0, conflict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of a tenant; None lets all through. [start, end) is of the events' own time."""

    tenant_no: int
    customer_no: int | None = None
    type: str | None = None
    status: str | None = None  # counted, unmatched, quarantined; duplicate: those with later copies
    code: str | None = None
    start: datetime | None = None
    end: datetime | None = None


class EventPosition(NamedTuple):
    """An event's place in a list: newest time first, then by identity and place in the log.

    It is also what a cursor holds, so whatever passes these limits is one that ClickHouse can compare.
    """

    occurred_micros: Annotated[int, msgspec.Meta(ge=_MIN_MICROS, le=_MAX_MICROS)]
    identity: Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{32}$")]
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    place: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


def position_of(event: StoredEvent) -> EventPosition:
    return EventPosition(to_micros(event.occurred_at), event.identity, event.offset, event.index)


def list_events(client: Client, wanted: EventFilter, *, after: EventPosition | None, limit: int) -> list[StoredEvent]:
    """Up to `limit` events after a place, newest first."""
    found: list[StoredEvent] = []
    while True:
        missing = limit - len(found)
        rows = _list_rows(client, wanted, after=after, limit=2 * missing + 1)
        for event in dict.fromkeys(_map_event(row) for row in rows):
            if not found or position_of(event) != position_of(found[-1]):
                found.append(event)
        if len(found) >= limit or len(rows) <= 2 * missing:
            return found[:limit]
        after = position_of(found[-1])


def _list_rows(
    client: Client, wanted: EventFilter, *, after: EventPosition | None, limit: int
) -> Sequence[Sequence[Any]]:
    """Rows in order. Without FINAL, which would read every column of all that is wanted to show a page of it."""
    return client.query(
        f"SELECT {_COLUMNS} FROM events"  # noqa: S608 - a constant
        " WHERE tenant_no = {tenant_no:UInt32}"
        " AND ({any_customer:Bool} OR customer_no = {customer_no:UInt64})"
        " AND ({any_type:Bool} OR type = {type:String})"
        " AND ({any_status:Bool} OR status = {status:String})"
        " AND ({any_code:Bool} OR code = {code:String})"
        " AND occurred_at >= fromUnixTimestamp64Micro({start:Int64})"
        " AND occurred_at < fromUnixTimestamp64Micro({end:Int64})"
        " AND (NOT {duplicates:Bool} OR hash IN (SELECT hash FROM event_copies WHERE tenant_no = {tenant_no:UInt32}))"
        " AND ({first_page:Bool} OR occurred_at < fromUnixTimestamp64Micro({after_micros:Int64})"
        "  OR (occurred_at = fromUnixTimestamp64Micro({after_micros:Int64})"
        "   AND (hash, kafka_offset, kafka_index) >"
        "    (toFixedString(unhex({after_hash:String}), 16), {after_offset:Int64}, {after_index:UInt32})))"
        " ORDER BY occurred_at DESC, hash, kafka_offset, kafka_index LIMIT {limit:UInt64}",
        parameters={
            "tenant_no": wanted.tenant_no,
            "any_customer": wanted.customer_no is None,
            "customer_no": wanted.customer_no or 0,
            "any_type": wanted.type is None,
            "type": wanted.type or "",
            "any_status": wanted.status in (None, DUPLICATE),
            "status": "counted" if wanted.status in (None, DUPLICATE) else wanted.status,
            "any_code": wanted.code is None,
            "code": wanted.code or "",
            "start": _MIN_MICROS if wanted.start is None else to_micros(wanted.start),
            "end": _MAX_MICROS if wanted.end is None else to_micros(wanted.end),
            "duplicates": wanted.status == DUPLICATE,
            "first_page": after is None,
            "after_micros": after.occurred_micros if after else 0,
            "after_hash": after.identity if after else "00" * 16,
            "after_offset": after.offset if after else 0,
            "after_index": after.place if after else 0,
            "limit": limit,
        },
    ).result_rows


def _map_event(row: Sequence[Any]) -> StoredEvent:
    identity, partition, offset, index, shard, seq, received, occurred, *rest = row
    return StoredEvent(
        identity, partition, offset, index, shard, seq, from_micros(received), from_micros(occurred), *rest
    )


def find_events(client: Client, *, tenant_no: int, identities: Sequence[bytes]) -> list[StoredEvent]:
    """The stored first copies of these identities, the newest received first. An identity has several when it came
    again after the dedup window."""
    parameters: dict[str, Any] = {"hashes": [identity.hex() for identity in identities], "tenant_no": tenant_no}
    rows = client.query(
        "SELECT DISTINCT toUnixTimestamp64Micro(received_at) FROM event_identities"
        " WHERE hash IN (SELECT toFixedString(unhex(arrayJoin({hashes:Array(String)})), 16))",
        parameters=parameters,
    ).result_rows
    received = [int(row[0]) for row in rows]
    if not received:
        return []
    rows = client.query(
        f"SELECT DISTINCT {_COLUMNS} FROM events WHERE tenant_no = {{tenant_no:UInt32}}"  # noqa: S608 - a constant
        " AND hash IN (SELECT toFixedString(unhex(arrayJoin({hashes:Array(String)})), 16))"
        " AND received_at >= fromUnixTimestamp64Micro({first:Int64})"
        " AND received_at <= fromUnixTimestamp64Micro({last:Int64})"
        " ORDER BY received_at DESC",
        parameters=parameters | {"first": min(received), "last": max(received)},
    ).result_rows
    return [_map_event(row) for row in rows]


def list_sources(client: Client, *, tenant_no: int, limit: int) -> list[str]:
    """The sources of a tenant's events, up to `limit` of them."""
    rows = client.query(
        "SELECT DISTINCT source FROM events WHERE tenant_no = {tenant_no:UInt32} LIMIT {limit:UInt32}",
        parameters={"tenant_no": tenant_no, "limit": limit},
    ).result_rows
    return [row[0] for row in rows]


def count_copies(client: Client, *, tenant_no: int, events: Sequence[StoredEvent]) -> dict[str, Copies]:
    """The later copies of events that have any, by identity."""
    firsts = {event.identity: event for event in events}
    counts: dict[str, Copies] = {}
    for copy in _copy_rows(client, tenant_no, list(firsts)):
        identity, count, *payloads = copy
        first = firsts[identity]
        same = payloads == [[(first.type, first.subject, first.data, first.extensions)]]
        counts[identity] = Copies(count, conflict=not same)
    return counts


def _copy_rows(client: Client, tenant_no: int, identities: list[str]) -> Sequence[Sequence[Any]]:
    if not identities:
        return []
    return client.query(
        "SELECT hex(hash), uniqExact(kafka_partition, kafka_offset, kafka_index),"
        " groupUniqArray(2)((type, subject, data, extensions)) FROM event_copies"
        " WHERE tenant_no = {tenant_no:UInt32}"
        " AND hash IN (SELECT toFixedString(unhex(arrayJoin({hashes:Array(String)})), 16)) GROUP BY hash",
        parameters={"tenant_no": tenant_no, "hashes": identities},
    ).result_rows


class Copy(NamedTuple):
    """When a later copy was received, and whether it says the same as the first."""

    received_at: datetime
    same: bool


def list_copies(client: Client, *, tenant_no: int, event: StoredEvent, limit: int) -> list[Copy]:
    """The later copies of one event, oldest first."""
    rows = client.query(
        "SELECT DISTINCT kafka_partition, kafka_offset, kafka_index, toUnixTimestamp64Micro(received_at) AS micros,"
        " (type, subject, data, extensions) = ({type:String}, {subject:String}, {data:String}, {extensions:String})"
        " FROM event_copies WHERE tenant_no = {tenant_no:UInt32} AND hash = toFixedString(unhex({hash:String}), 16)"
        " ORDER BY kafka_offset, kafka_index LIMIT {limit:UInt32}",
        parameters={
            "tenant_no": tenant_no,
            "hash": event.identity,
            "type": event.type,
            "subject": event.subject,
            "data": event.data,
            "extensions": event.extensions,
            "limit": limit,
        },
    ).result_rows
    return [Copy(from_micros(micros), bool(same)) for *_, micros, same in rows]


class WindowKey(NamedTuple):
    """A minute that one batch of the flow added to."""

    meter_no: int
    revision: int
    customer_no: int
    minute_seconds: int
    groups: tuple[str, ...]
    shard: int
    seq: int


def stored_windows(client: Client, keys: Iterable[WindowKey]) -> set[WindowKey]:
    """Those of the keys that are stored. A batch knows one state of the catalogue, so an event was counted by a meter
    just when its batch added to the meter's minute of that customer and group."""
    wanted = list(dict.fromkeys(keys))
    found: set[WindowKey] = set()
    for start in range(0, len(wanted), WINDOWS_A_QUERY):
        page = wanted[start : start + WINDOWS_A_QUERY]
        rows = client.query(
            "SELECT DISTINCT meter_no, revision, customer_no, toUnixTimestamp64Second(minute) AS second, group_values,"
            " shard, seq FROM usage_minutes"
            " WHERE meter_no IN {meters:Array(UInt32)} AND customer_no IN {customers:Array(UInt64)}"
            " AND (meter_no, revision, customer_no, second, shard, seq) IN"
            " {keys:Array(Tuple(UInt32, UInt32, UInt64, Int64, UInt16, UInt64))}",
            parameters={
                "meters": sorted({key.meter_no for key in page}),
                "customers": sorted({key.customer_no for key in page}),
                "keys": [(*key[:4], *key[5:]) for key in page],
            },
        ).result_rows
        found |= {WindowKey(m, r, c, second, tuple(groups), sh, seq) for m, r, c, second, groups, sh, seq in rows}
    return found & set(wanted)
