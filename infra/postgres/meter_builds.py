"""The revisions of meters: each definition that a meter has had, and how far the building of a new one has come.

A revision is `waiting` (counted live from `catalogue_version` on), then `counting` (the past), then `active` (readers
use it) until a later one is: then it is `retired`. One that is changed again before it is active is `superseded`.
At most one revision of a meter is active and at most one is being built; every change locks the meter's row first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import LiteralString

import msgspec

from infra.postgres import catalogue
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.catalogue import EntryKind, MeterEntry, meter_key


class Reason(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A revision that is being built. Batches judged by `catalogue_version` or a newer one count it live."""

    meter_id: str
    tenant_id: str
    tenant_no: int
    meter: MeterEntry
    reason: str
    catalogue_version: int
    created_at: datetime


def insert_revision(connection: PgConnection, *, meter: MeterEntry, reason: Reason, now: datetime) -> Row:
    """A new revision that is to be built; its number is of `next_revision`, and none of the meter is being built."""
    row = connection.execute(
        "INSERT INTO meter_revisions (meter_no, revision, event_type, aggregation, value, filters, group_by, reason,"
        " state, catalogue_version, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'waiting', 0, %s) RETURNING *",
        (meter.meter_no, meter.revision, meter.event_type, meter.aggregation, meter.value,
         jsonb(list(meter.filters)), list(meter.group_by), reason, now),
    ).fetchone()  # fmt: skip
    assert row is not None
    return row


def begin(connection: PgConnection, *, tenant_no: int, meter: MeterEntry, superseded: Sequence[str]) -> None:
    """Have flows count the new revision live, and no more those of the keys `superseded`. The last step of a
    transaction (see `catalogue.append_changes`)."""
    changes = [_change(tenant_no, key, None) for key in superseded]
    changes.append(_change(tenant_no, meter_key(meter), msgspec.structs.replace(meter, active=False)))
    version = catalogue.append_changes(connection, changes)
    connection.execute(
        "UPDATE meter_revisions SET catalogue_version = %s WHERE meter_no = %s AND revision = %s",
        (version, meter.meter_no, meter.revision),
    )


def end(connection: PgConnection, *, tenant_no: int, keys: Sequence[str]) -> None:
    """Have flows count these revisions no more. The last step of a transaction."""
    if keys:
        catalogue.append_changes(connection, [_change(tenant_no, key, None) for key in keys])


def supersede(connection: PgConnection, *, meter_no: int, now: datetime) -> list[str]:
    """Give up what is being built of the meter, whose row is locked; the catalogue keys that are to end (see `end`)."""
    rows = connection.execute(
        "UPDATE meter_revisions SET state = 'superseded', ended_at = %s, retired_at = %s"
        " WHERE meter_no = %s AND state IN ('waiting', 'counting') RETURNING revision",
        (now, now, meter_no),
    )
    return [f"{meter_no}:{row['revision']}" for row in rows]


def next_revision(connection: PgConnection, *, meter_no: int) -> int:
    """The number that the next revision of the meter gets."""
    row = connection.execute(
        "SELECT greatest(m.revision, max(r.revision)) + 1 AS next FROM meters m"
        " LEFT JOIN meter_revisions r ON r.meter_no = m.no WHERE m.no = %s GROUP BY m.revision",
        (meter_no,),
    ).fetchone()
    assert row is not None
    return row["next"]


def _change(tenant_no: int, key: str, entry: MeterEntry | None) -> catalogue.Change:
    return catalogue.Change(kind=EntryKind.METER, tenant_no=tenant_no, key=key, entry=entry)


def load_building(connection: PgConnection, *, meter_nos: Sequence[int]) -> dict[int, Row]:
    """The revision that is being built of each of these meters; ready meters are absent."""
    rows = connection.execute(
        "SELECT * FROM meter_revisions WHERE meter_no = ANY(%s) AND state IN ('waiting', 'counting')",
        (list(meter_nos),),
    )
    return {row["meter_no"]: row for row in rows}


def load_waiting(connection: PgConnection, *, limit: int) -> list[Build]:
    """Builds that are not done, oldest first, up to `limit`."""
    rows = connection.execute(
        _BUILDS + " WHERE r.state IN ('waiting', 'counting') ORDER BY r.created_at, r.meter_no LIMIT %s", (limit,)
    )
    return [_build(row) for row in rows]


def load_build(connection: PgConnection, *, meter_id: str, revision: int) -> Build | None:
    """This build; None when it is done or superseded."""
    row = connection.execute(
        _BUILDS + " WHERE m.id = %s AND r.revision = %s AND r.state IN ('waiting', 'counting')", (meter_id, revision)
    ).fetchone()
    return None if row is None else _build(row)


_BUILDS = (
    "SELECT m.id, m.tenant_id, t.no AS tenant_no, r.* FROM meter_revisions r JOIN meters m ON m.no = r.meter_no"
    " JOIN tenants t ON t.id = m.tenant_id"
)


def _build(row: Row) -> Build:
    fields = MeterEntry.__struct_fields__
    entry = msgspec.convert({name: row[name] for name in fields if name in row}, MeterEntry)
    return Build(
        meter_id=row["id"],
        tenant_id=row["tenant_id"],
        tenant_no=row["tenant_no"],
        meter=msgspec.structs.replace(entry, active=False),
        reason=row["reason"],
        catalogue_version=row["catalogue_version"],
        created_at=row["created_at"],
    )


def start_counting(connection: PgConnection, build: Build, *, total_events: int, now: datetime) -> bool:
    """Note that the past is being counted, anew or again; false when the build has been superseded."""
    return _update(
        connection, build,
        "state = 'counting', counted_events = 0, total_events = %s, started_at = coalesce(started_at, %s)",
        (total_events, now),
    )  # fmt: skip


def record_progress(connection: PgConnection, build: Build, *, counted_events: int) -> bool:
    """Note how many events have been counted; false when the build has been superseded."""
    return _update(connection, build, "counted_events = %s", (counted_events,))


def _update(connection: PgConnection, build: Build, assignment: LiteralString, values: tuple[object, ...]) -> bool:
    changed = connection.execute(
        "UPDATE meter_revisions SET "  # noqa: S608 - a literal of this file
        + assignment
        + " WHERE meter_no = %s AND revision = %s AND state IN ('waiting', 'counting')",
        (*values, build.meter.meter_no, build.meter.revision),
    ).rowcount
    return changed == 1


def activate(connection: PgConnection, build: Build, *, now: datetime) -> bool:
    """Switch readers over to the revision, which has been built; false when it has been superseded.

    One step with the caller's commit: readers, flows and counters go from one revision to the other together. The last
    statement of the transaction (see `catalogue.append_changes`).
    """
    meter = build.meter
    connection.execute("SELECT FROM meters WHERE no = %s FOR UPDATE", (meter.meter_no,))
    former = connection.execute(
        "SELECT revision FROM meter_revisions WHERE meter_no = %s AND state = 'active'", (meter.meter_no,)
    ).fetchone()
    waiting = connection.execute(
        "SELECT FROM meter_revisions WHERE meter_no = %s AND revision = %s AND state IN ('waiting', 'counting')",
        (meter.meter_no, meter.revision),
    ).fetchone()
    if waiting is None:
        return False
    changes = [_change(build.tenant_no, meter_key(meter), msgspec.structs.replace(meter, active=True))]
    if former is not None:
        changes.append(_change(build.tenant_no, f"{meter.meter_no}:{former['revision']}", None))
        connection.execute(
            "UPDATE meter_revisions SET state = 'retired', retired_at = %s WHERE meter_no = %s AND state = 'active'",
            (now, meter.meter_no),
        )
    connection.execute(
        "UPDATE meter_revisions SET state = 'active', ended_at = %s WHERE meter_no = %s AND revision = %s",
        (now, meter.meter_no, meter.revision),
    )
    use(connection, meter, is_built=True, built_until=None)
    catalogue.append_changes(connection, changes)
    return True


def use(connection: PgConnection, meter: MeterEntry, *, is_built: bool, built_until: datetime | None) -> None:
    """Have readers use this definition and its windows; `is_built`, `built_until`: see `meters.complete_until`.

    That a meter had too many groups is true no more once they are made of other properties.
    """
    connection.execute(
        "UPDATE meters SET revision = %s, event_type = %s, aggregation = %s, value = %s, filters = %s, group_by = %s,"
        " is_built = %s, built_until = %s,"
        " groups_over_limit_at = CASE WHEN group_by = %s THEN groups_over_limit_at END WHERE no = %s",
        (meter.revision, meter.event_type, meter.aggregation, meter.value, jsonb(list(meter.filters)),
         list(meter.group_by), is_built, built_until, list(meter.group_by), meter.meter_no),
    )  # fmt: skip


def load_passed(connection: PgConnection, *, version: int) -> dict[int, int] | None:
    """By shard, its last batch that may have been judged by a catalogue older than `version`; None while some shard
    may still judge one so. A shard that is not named begins with this version or a newer one.
    """
    rows = connection.execute(
        "SELECT s.shard, s.next_seq - 1 AS seq, s.catalogue_version >= %s"
        " OR NOT EXISTS (SELECT FROM shard_offsets o WHERE o.shard = s.shard) AS passed FROM shards s",
        (version,),
    ).fetchall()
    return {row["shard"]: row["seq"] for row in rows} if all(row["passed"] for row in rows) else None


def load_retired(connection: PgConnection, *, before: datetime, limit: int) -> list[tuple[int, int]]:
    """(meter_no, revision) whose windows nobody reads since `before`, and that are still stored."""
    rows = connection.execute(
        "SELECT meter_no, revision FROM meter_revisions WHERE retired_at < %s AND swept_at IS NULL"
        " ORDER BY retired_at LIMIT %s",
        (before, limit),
    )
    return [(row["meter_no"], row["revision"]) for row in rows]


def mark_swept(connection: PgConnection, *, meter_no: int, revision: int, now: datetime) -> None:
    """The windows of this revision are gone."""
    connection.execute(
        "UPDATE meter_revisions SET swept_at = %s WHERE meter_no = %s AND revision = %s", (now, meter_no, revision)
    )
