"""Facts: the rows of `events`, one a decision. What an event is now is the fold of its rows.

Rows of a redone batch may stand twice; here every decision comes out once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import xxhash

from infra.clickhouse.client import Client
from infra.clickhouse.sink import LOOKUP_PAGE
from schemas.instants import to_micros

#: Identities a page of `quarantined_pages`: 160 KB of hashes.
QUARANTINED_PAGE = 10_000
#: Subjects a query: as hashes in decimal they stay below the 128 KiB that ClickHouse takes in one parameter.
SUBJECTS_A_QUERY = 5_000
DAY_MICROS = 86_400_000_000

_FIRST_MICROS = to_micros(datetime.fromisoformat("1900-01-01T00:00:00Z"))
_LAST_MICROS = to_micros(datetime.fromisoformat("2200-01-01T00:00:00Z"))
_NO_IDENTITY = bytes(16)

#: Identities given as one text of hexadecimal digits, 32 each.
_GIVEN = (
    "(SELECT toFixedString(unhex(substring({hashes:String}, number * 32 + 1, 32)), 16) FROM numbers({count:UInt64}))"
)
_COLUMNS = (
    "tenant_no, hex(hash), kafka_partition, kafka_offset, kafka_index, change_offset,"
    " toUnixTimestamp64Micro(received_at), toUnixTimestamp64Micro(occurred_at), untimed, source, id, type, subject,"
    " data, extensions, customer_no, toString(status), code, effect"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One decision about one first copy, which stands at (partition, offset, index). Times are microseconds since 1970.

    `change_offset` is -1 for the first decision, else the offset of the message that changed the event.
    """

    tenant_no: int
    identity: bytes
    partition: int
    offset: int
    index: int
    change_offset: int
    received_at: int
    occurred_at: int
    untimed: bool
    source: str
    id: str
    type: str
    subject: str
    data: str
    extensions: str
    customer_no: int
    status: str
    code: str
    effect: int


def load_facts(client: Client, *, tenant_no: int, identities: Sequence[bytes], before: Mapping[int, int]) -> list[Fact]:
    """All facts about a tenant's identities that stand before the offsets `before` of their partitions.

    A fact stands before an offset when both its event and the message that changed it do. Ordered by place in the log,
    then by change. All that stands there must be stored, or the answer is not a function of the log.

    One query a day of receipt reads only what was received then, since an index on hashes alone would be asked of the
    whole table, and of thousands of hashes nearly every part of it may hold one.
    """
    found: dict[tuple[int, int, int, int], Fact] = {}
    for of_day in _by_day_of_receipt(client, identities).values():
        for start in range(0, len(of_day), LOOKUP_PAGE):
            page = of_day[start : start + LOOKUP_PAGE]
            for fact in _facts_received(client, tenant_no, page):
                limit = before.get(fact.partition, 0)
                if fact.offset < limit and fact.change_offset < limit:
                    found[fact.partition, fact.offset, fact.index, fact.change_offset] = fact
    return [found[place] for place in sorted(found)]


def _by_day_of_receipt(client: Client, identities: Sequence[bytes]) -> dict[int, list[tuple[bytes, int]]]:
    """The first copies of identities with the microsecond they were received at, by day since 1970."""
    days: dict[int, list[tuple[bytes, int]]] = {}
    for start in range(0, len(identities), LOOKUP_PAGE):
        page = identities[start : start + LOOKUP_PAGE]
        rows = client.query(
            "SELECT DISTINCT hex(hash), toUnixTimestamp64Micro(received_at)"  # noqa: S608 - a text of this file
            f" FROM event_identities WHERE hash IN {_GIVEN}",
            parameters={"hashes": b"".join(page).hex(), "count": len(page)},
        ).result_rows
        for identity, received in rows:
            days.setdefault(received // DAY_MICROS, []).append((bytes.fromhex(identity), received))
    return days


def _facts_received(client: Client, tenant_no: int, copies: Sequence[tuple[bytes, int]]) -> Iterator[Fact]:
    """All facts about first copies received between the first and the last of these; all keep the time of receipt."""
    rows = client.query(
        f"SELECT {_COLUMNS} FROM events WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {_GIVEN}"  # noqa: S608 - texts of this file
        " AND received_at >= fromUnixTimestamp64Micro({first:Int64})"
        " AND received_at <= fromUnixTimestamp64Micro({last:Int64})",
        parameters={
            "hashes": b"".join(identity for identity, _ in copies).hex(),
            "count": len(copies),
            "tenant_no": tenant_no,
            "first": min(received for _, received in copies),
            "last": max(received for _, received in copies),
        },
    ).result_rows
    for tenant, identity, *rest in rows:
        yield Fact(tenant, bytes.fromhex(identity), *rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineFilter:
    """Which quarantined events of a tenant; None lets all through. [start, end) is of the events' own time."""

    tenant_no: int
    code: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    subjects: Sequence[str] | None = None  # at most SUBJECTS_A_QUERY
    customers: Sequence[int] | None = None  # by number, as many


def quarantined_pages(
    client: Client, wanted: QuarantineFilter, *, after: bytes = _NO_IDENTITY
) -> Iterator[list[bytes]]:
    """The identities of events that are quarantined now, those beyond `after`, in order.

    They come in pages of at most QUARANTINED_PAGE, none of them empty.

    An identity that comes out may have become something else meanwhile, or be of another subject with the same hash:
    replaying it once more does no harm.
    """
    last = after.hex()
    while True:
        rows = client.query(
            "SELECT hex(hash), groupArray((kafka_partition, kafka_offset, kafka_index, change_offset)) FROM events"
            " WHERE tenant_no = {tenant_no:UInt32} AND status = 'quarantined'"
            " AND ({any_code:Bool} OR code = {code:String})"
            " AND occurred_at >= fromUnixTimestamp64Micro({start:Int64})"
            " AND occurred_at < fromUnixTimestamp64Micro({end:Int64})"
            " AND ({any_subject:Bool} OR xxHash64(subject) IN {subjects:Array(UInt64)})"
            " AND ({any_customer:Bool} OR customer_no IN {customers:Array(UInt64)})"
            " AND hash > toFixedString(unhex({after:String}), 16)"
            " GROUP BY hash ORDER BY hash LIMIT {limit:UInt32}",
            parameters={
                "tenant_no": wanted.tenant_no,
                "any_code": wanted.code is None,
                "code": wanted.code or "",
                "start": _FIRST_MICROS if wanted.start is None else to_micros(wanted.start),
                "end": _LAST_MICROS if wanted.end is None else to_micros(wanted.end),
                "any_subject": wanted.subjects is None,
                "subjects": [xxhash.xxh64_intdigest(subject.encode()) for subject in wanted.subjects or ()] or [0],
                "any_customer": wanted.customers is None,
                "customers": list(wanted.customers or ()) or [0],
                "after": last,
                "limit": QUARANTINED_PAGE,
            },
        ).result_rows
        candidates = {
            bytes.fromhex(identity): {(p, offset, index, change) for p, offset, index, change in places}
            for identity, places in rows
        }
        unresolved = _unresolved(client, wanted.tenant_no, candidates)
        if unresolved:
            yield unresolved
        if len(rows) < QUARANTINED_PAGE:
            return
        last = rows[-1][0]


def _unresolved(
    client: Client, tenant_no: int, candidates: Mapping[bytes, set[tuple[int, int, int, int]]]
) -> list[bytes]:
    """The identities of which some first copy has one of these decisions as its last: (place in the log, change)."""
    identities = list(candidates)
    newest: dict[tuple[bytes, int, int, int], int] = {}
    for start in range(0, len(identities), LOOKUP_PAGE):
        page = identities[start : start + LOOKUP_PAGE]
        rows = client.query(
            "SELECT hex(hash), kafka_partition, kafka_offset, kafka_index, max(change_offset) FROM event_changes"  # noqa: S608 - a text of this file
            f" WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {_GIVEN}"
            " GROUP BY hash, kafka_partition, kafka_offset, kafka_index",
            parameters={"tenant_no": tenant_no, "hashes": b"".join(page).hex(), "count": len(page)},
        ).result_rows
        newest |= {
            (bytes.fromhex(identity), partition, offset, index): change
            for identity, partition, offset, index, change in rows
        }
    return [
        identity
        for identity, decisions in candidates.items()
        if any(newest.get((identity, p, offset, index), -1) == change for p, offset, index, change in decisions)
    ]
