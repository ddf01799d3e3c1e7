"""A tenant's events in their order: the newest time first.

They are read without FINAL, which would read every column of all that is wanted to show a page of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from infra.clickhouse.client import Client
from infra.clickhouse.events import FIRST_COLUMNS, StoredEvent, map_first, with_changes
from infra.clickhouse.values import SETTINGS as MEMORY_SETTINGS
from infra.clickhouse.values import bounded_memory
from schemas.instants import to_micros

_MIN_MICROS = to_micros(datetime.fromisoformat("1900-01-01T00:00:00Z"))
_MAX_MICROS = to_micros(datetime.fromisoformat("2200-01-01T00:00:00Z"))

_OF_TENANT = "tenant_no = {tenant_no:UInt32}"
_PLACE = "hash, kafka_partition, kafka_offset, kafka_index"
_OF_TIME = (
    "occurred_at >= fromUnixTimestamp64Micro({start:Int64}) AND occurred_at < fromUnixTimestamp64Micro({end:Int64})"
)
#: Changes keep the time of their event, so those of other times need not be held in memory.
_CHANGES = f"FROM event_changes WHERE {_OF_TENANT} AND {_OF_TIME}"
#: How long before the start an event may be received that occurs after it: clocks are wrong by minutes.
_RECEIPT_MARGIN_MICROS = 86_400_000_000
#: Skips what is older than the page, by the index on the time. What must be held is the places of changed events.
_SETTINGS = {"use_skip_indexes_for_top_k": 1, "use_top_k_dynamic_filtering": 1, **MEMORY_SETTINGS}
_TOO_LARGE = ("events.too_large", "too many changed or copied events for one answer; take a shorter range of time")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of a tenant; None lets all through. [start, end) is of the events' own time.

    `statuses`, `code` and `customer_no` are of the decision that holds; `metered_types` narrows events that matched no
    meter when they came to those types.
    """

    tenant_no: int
    customer_no: int | None = None
    type: str | None = None
    subject: str | None = None
    source: str | None = None
    statuses: Sequence[str] | None = None
    metered_types: Sequence[str] | None = None
    code: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    with_copies: bool = False  # only those with later copies

    @property
    def of_decision(self) -> bool:
        """Whether the decision that holds matters."""
        return not (self.statuses is None and self.code is None and self.customer_no is None)


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
    """Up to `limit` events after a place, newest first, with all decisions about them.

    Raises Reject `events.too_large` where so many were changed or copied that a query would need too much memory.
    """
    found: list[StoredEvent] = []
    while True:
        missing = limit - len(found)
        rows, complete = _read(client, wanted, after=after, limit=2 * missing + 1)
        for event in dict.fromkeys(map(map_first, rows)):
            if not found or position_of(event) != position_of(found[-1]):
                found.append(event)
        if len(found) >= limit or complete:
            return with_changes(client, wanted.tenant_no, found[:limit])
        after = position_of(found[-1])


def _read(
    client: Client, wanted: EventFilter, *, after: EventPosition | None, limit: int
) -> tuple[Sequence[Sequence[Any]], bool]:
    """Up to `limit` first rows in order, and whether there are no more.

    Where the decision that holds matters, the events that were never changed and the few that were are read apart:
    one condition over both would keep ClickHouse from finding the customer's own rows.
    """
    parameters = _parameters(wanted, after, limit)
    if not wanted.of_decision:
        rows = _query(client, "true", parameters, copied=wanted.with_copies)
        return rows, len(rows) < limit
    unchanged = _query(client, _UNCHANGED, parameters, copied=wanted.with_copies)
    changed = _query(client, _CHANGED, parameters, copied=wanted.with_copies)
    rows = sorted((*unchanged, *changed), key=_order_of)[:limit]
    return rows, len(unchanged) < limit and len(changed) < limit


def _order_of(row: Sequence[Any]) -> tuple[Any, ...]:
    return -row[5], row[0], row[2], row[3]


#: A copy comes after its first; what it says of its own time may differ.
_COPIED = (
    f"hash IN (SELECT hash FROM event_copies WHERE {_OF_TENANT}"  # noqa: S608 - texts of this file
    " AND received_at >= fromUnixTimestamp64Micro({copies_from:Int64}))"
)
_UNCHANGED = (
    "({any_status:Bool} OR has({statuses:Array(String)}, toString(status)))"
    " AND ({any_type_unmatched:Bool} OR status <> 'unmatched' OR has({metered_types:Array(String)}, type))"
    " AND ({any_code:Bool} OR code = {code:String})"
    " AND ({any_customer:Bool} OR customer_no = {customer_no:UInt64})"
    f" AND ({_PLACE}) NOT IN (SELECT {_PLACE} {_CHANGES})"
)
_CHANGED = (
    f"({_PLACE}) IN (SELECT {_PLACE} {_CHANGES} GROUP BY {_PLACE}"
    " HAVING ({any_status:Bool} OR has({statuses:Array(String)}, toString(argMax(status, change_offset))))"
    " AND ({any_code:Bool} OR argMax(code, change_offset) = {code:String})"
    " AND ({any_customer:Bool} OR argMax(customer_no, change_offset) = {customer_no:UInt64}))"
)


def _query(client: Client, condition: str, parameters: dict[str, Any], *, copied: bool) -> Sequence[Sequence[Any]]:
    with bounded_memory(_TOO_LARGE):
        return client.query(
            f"SELECT {FIRST_COLUMNS} FROM events"  # noqa: S608 - texts of this file
            " WHERE tenant_no = {tenant_no:UInt32} AND change_offset = -1"
            " AND ({any_type:Bool} OR type = {type:String})"
            " AND ({any_subject:Bool} OR subject = {subject:String})"
            " AND ({any_source:Bool} OR source = {source:String})"
            f" AND {_OF_TIME}"
            f" AND {_COPIED if copied else 'true'}"
            " AND ({first_page:Bool} OR occurred_at < fromUnixTimestamp64Micro({after_micros:Int64})"
            "  OR (occurred_at = fromUnixTimestamp64Micro({after_micros:Int64})"
            "   AND (hash, kafka_offset, kafka_index) >"
            "    (toFixedString(unhex({after_hash:String}), 16), {after_offset:Int64}, {after_index:UInt32})))"
            f" AND {condition}"
            " ORDER BY occurred_at DESC, hash, kafka_offset, kafka_index LIMIT {limit:UInt64}",
            parameters=parameters,
            settings=_SETTINGS,
        ).result_rows


def _parameters(wanted: EventFilter, after: EventPosition | None, limit: int) -> dict[str, Any]:
    start = _MIN_MICROS if wanted.start is None else to_micros(wanted.start)
    end = _MAX_MICROS if wanted.end is None else to_micros(wanted.end)
    return {
        "tenant_no": wanted.tenant_no,
        "any_customer": wanted.customer_no is None,
        "customer_no": wanted.customer_no or 0,
        "any_type": wanted.type is None,
        "type": wanted.type or "",
        "any_subject": wanted.subject is None,
        "subject": wanted.subject or "",
        "any_source": wanted.source is None,
        "source": wanted.source or "",
        "any_status": wanted.statuses is None,
        "statuses": list(wanted.statuses or ()),
        "any_type_unmatched": wanted.metered_types is None,
        "metered_types": list(wanted.metered_types or ()),
        "any_code": wanted.code is None,
        "code": wanted.code or "",
        "start": start,
        # What is no later than the place is within the end too: so the index on the time is used.
        "end": end if after is None else min(end, after.occurred_micros + 1),
        "copies_from": max(_MIN_MICROS, start - _RECEIPT_MARGIN_MICROS),
        "first_page": after is None,
        "after_micros": after.occurred_micros if after else 0,
        "after_hash": after.identity if after else "00" * 16,
        "after_offset": after.offset if after else 0,
        "after_index": after.place if after else 0,
        "limit": limit,
    }
