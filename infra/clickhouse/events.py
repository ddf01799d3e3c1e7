"""Stored events and what became of them: an event is its first copy and every decision about it, in their order.

Rows of a redone batch may stand twice; here every decision comes out once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.clickhouse.client import Client
from schemas.instants import from_micros

#: Identities a query: as hexadecimal they stay below the 128 KiB that ClickHouse takes in one parameter.
IDENTITIES_A_QUERY = 3_000

#: Identities given as one text of hexadecimal digits, 32 each.
GIVEN_HASHES = (
    "(SELECT toFixedString(unhex(substring({hashes:String}, number * 32 + 1, 32)), 16) FROM numbers({count:UInt64}))"
)
FIRST_COLUMNS = (
    "hex(hash), kafka_partition, kafka_offset, kafka_index, toUnixTimestamp64Micro(received_at),"
    " toUnixTimestamp64Micro(occurred_at), untimed, source, id, type, subject, data, extensions,"
    " toUnixTimestamp64Micro(judged_at), shard, seq, customer_no, toString(status), code, effect"
)
_FIELDS_OF_FIRST = 13  # of the event itself; then come those of its first decision
AS_IT_CAME = -1  # change_offset of the first decision


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about an event by one batch of the flow. `customer_no` 0: unknown subject.

    `change_offset` is -1 for the first decision, else the offset of the message that changed the event. `effect` is
    what the decision adds to what counts: 1, 0 (quarantined) or -1 (takes back).
    """

    change_offset: int
    judged_at: datetime
    shard: int
    seq: int
    customer_no: int
    status: str
    code: str
    effect: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """The first copy of an event, and the decisions about it, oldest first, never none. `data` and `extensions` are
    JSON object texts; `untimed`: it came without a time and took that of its receipt."""

    identity: str  # 32 hexadecimal digits
    partition: int
    offset: int
    index: int
    received_at: datetime
    occurred_at: datetime
    untimed: bool
    source: str
    id: str
    type: str
    subject: str
    data: str
    extensions: str
    decisions: tuple[Decision, ...]

    @property
    def last(self) -> Decision:
        """The decision that holds."""
        return self.decisions[-1]

    @property
    def counting(self) -> Decision | None:
        """The decision by which the event counts now; None when it counts for nothing."""
        if sum(decision.effect for decision in self.decisions) <= 0:
            return None
        return next(decision for decision in reversed(self.decisions) if decision.effect > 0)

    @property
    def place(self) -> "Place":
        """Which first copy this is: an identity has several when it came again after the dedup window."""
        return self.identity, self.partition, self.offset, self.index


Place = tuple[str, int, int, int]  # identity, partition, offset, index


def map_first(row: Sequence[Any]) -> StoredEvent:
    """An event as it came, from a row of FIRST_COLUMNS."""
    identity, partition, offset, index, received, occurred, *fields = row[:_FIELDS_OF_FIRST]
    judged, *decided = row[_FIELDS_OF_FIRST:]
    return StoredEvent(
        identity, partition, offset, index, from_micros(received), from_micros(occurred), *fields,
        decisions=(Decision(AS_IT_CAME, from_micros(judged), *decided),),
    )  # fmt: skip


def find_events(client: Client, *, tenant_no: int, identities: Sequence[bytes]) -> list[StoredEvent]:
    """The events of these identities, at most IDENTITIES_A_QUERY, with all decisions; the newest received first."""
    parameters = {"tenant_no": tenant_no, **_given(identity.hex() for identity in identities)}
    rows = client.query(
        f"SELECT count(), toUnixTimestamp64Micro(min(received_at)), toUnixTimestamp64Micro(max(received_at))"  # noqa: S608 - a text of this file
        f" FROM event_identities WHERE hash IN {GIVEN_HASHES}",
        parameters=parameters,
    ).result_rows
    count, first, last = rows[0]
    if not count:
        return []
    rows = client.query(
        f"SELECT DISTINCT {FIRST_COLUMNS} FROM events WHERE tenant_no = {{tenant_no:UInt32}}"  # noqa: S608 - texts of this file
        f" AND change_offset = -1 AND hash IN {GIVEN_HASHES}"
        " AND received_at >= fromUnixTimestamp64Micro({first:Int64})"
        " AND received_at <= fromUnixTimestamp64Micro({last:Int64})"
        " ORDER BY received_at DESC, kafka_offset DESC, kafka_index DESC",
        parameters=parameters | {"first": first, "last": last},
    ).result_rows
    return with_changes(client, tenant_no, [map_first(row) for row in rows])


def with_changes(client: Client, tenant_no: int, events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The same events, given as they came, with what was decided about them later."""
    found = _load_changes(client, tenant_no, sorted({event.identity for event in events}))
    return [
        StoredEvent(
            event.identity, event.partition, event.offset, event.index, event.received_at, event.occurred_at,
            event.untimed, event.source, event.id, event.type, event.subject, event.data, event.extensions,
            decisions=(*event.decisions, *found.get(event.place, ())),
        )
        for event in events
    ]  # fmt: skip


def _load_changes(client: Client, tenant_no: int, identities: Sequence[str]) -> Mapping[Place, list[Decision]]:
    found: dict[Place, list[Decision]] = {}
    for start in range(0, len(identities), IDENTITIES_A_QUERY):
        rows = client.query(
            "SELECT DISTINCT hex(hash), kafka_partition, kafka_offset, kafka_index, change_offset,"  # noqa: S608 - a text of this file
            " toUnixTimestamp64Micro(judged_at), shard, seq, customer_no, toString(status), code, effect"
            f" FROM event_changes WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {GIVEN_HASHES}"
            " ORDER BY change_offset",
            parameters={"tenant_no": tenant_no, **_given(identities[start : start + IDENTITIES_A_QUERY])},
        ).result_rows
        for identity, partition, offset, index, change_offset, judged, *decided in rows:
            decision = Decision(change_offset, from_micros(judged), *decided)
            found.setdefault((identity, partition, offset, index), []).append(decision)
    return found


def is_decided(client: Client, *, tenant_no: int, identity: bytes, status: str) -> bool:
    """Whether some decision about the identity that came after its first has this status."""
    rows = client.query(
        f"SELECT count() FROM event_changes WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {GIVEN_HASHES}"  # noqa: S608 - a text of this file
        " AND status = {status:String}",
        parameters={"tenant_no": tenant_no, "status": status, **_given([identity.hex()])},
    ).result_rows
    return rows[0][0] > 0


def list_sources(client: Client, *, tenant_no: int, limit: int) -> list[str]:
    """The sources of a tenant's events, up to `limit` of them, by name."""
    rows = client.query(
        "SELECT DISTINCT source FROM event_sources WHERE tenant_no = {tenant_no:UInt32}"
        " ORDER BY source LIMIT {limit:UInt32}",
        parameters={"tenant_no": tenant_no, "limit": limit},
    ).result_rows
    return [row[0] for row in rows]


def _given(hashes: Iterable[str]) -> dict[str, Any]:
    given = list(hashes)
    return {"hashes": "".join(given), "count": len(given)}
