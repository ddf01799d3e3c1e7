"""What proofs of meters found, and what is done about a drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import LiteralString

import msgspec

from infra.postgres import meter_builds, outbox
from infra.postgres.jsonb import jsonb
from infra.postgres.meter_builds import Reason
from infra.postgres.pool import PgConnection, Row
from schemas.catalogue import MeterEntry
from schemas.topics import SystemEvent

#: A meter that drifts again is not counted anew more often than this: a person must look why.
REPAIR_AGAIN = timedelta(hours=24)


class ProofKind(StrEnum):
    RECENT = "recent"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provable:
    """A meter that readers use, and the newest proof of each kind of this very revision."""

    meter_id: str
    key: str
    tenant_id: str
    tenant_no: int
    meter: MeterEntry
    recent_seqs: Mapping[int, int] | None
    full_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a proof found; see `flows.proof.Proof`."""

    kind: ProofKind
    seqs: Mapping[int, int]
    events: int
    windows: int
    drifted: int
    examples: Sequence[str]


_PROVABLE = (
    "SELECT m.id, m.key, m.tenant_id, t.no AS tenant_no, m.no AS meter_no, m.revision, m.event_type, m.aggregation,"
    " m.value, m.filters, m.group_by, p.seqs, f.proven_at AS full_at"
    " FROM meters m JOIN tenants t ON t.id = m.tenant_id"
    " LEFT JOIN meter_proofs p ON p.meter_no = m.no AND p.kind = 'recent' AND p.revision = m.revision"
    " LEFT JOIN meter_proofs f ON f.meter_no = m.no AND f.kind = 'full' AND f.revision = m.revision"
    " WHERE m.archived_at IS NULL AND m.is_built"
)


def load_provable(connection: PgConnection, *, after_no: int, limit: int) -> list[Provable]:
    """Meters whose numbers are beyond `after_no`, in their order."""
    rows = connection.execute(_PROVABLE + " AND m.no > %s ORDER BY m.no LIMIT %s", (after_no, limit))
    return [_provable(row) for row in rows]


def find_provable(connection: PgConnection, *, reference: str, limit: int) -> list[Provable]:
    """Meters of any tenant by this key or id."""
    rows = connection.execute(
        _PROVABLE + " AND (m.id = %s OR m.key = %s) ORDER BY m.no LIMIT %s", (reference, reference, limit)
    )
    return [_provable(row) for row in rows]


def _provable(row: Row) -> Provable:
    return Provable(
        meter_id=row["id"],
        key=row["key"],
        tenant_id=row["tenant_id"],
        tenant_no=row["tenant_no"],
        meter=msgspec.convert({k: row[k] for k in MeterEntry.__struct_fields__ if k in row}, MeterEntry),
        recent_seqs=None if row["seqs"] is None else {int(shard): seq for shard, seq in row["seqs"].items()},
        full_at=row["full_at"],
    )


def load_results(connection: PgConnection, *, meter_nos: Sequence[int]) -> dict[int, Row]:
    """The newest proof of each of these meters, of the revision that readers use: `ok`, `proven_at`, `drifted` (rows),
    `examples`. Meters that have none are absent."""
    rows = connection.execute(
        "SELECT p.* FROM meter_proofs p JOIN meters m ON m.no = p.meter_no AND m.revision = p.revision"
        " WHERE p.meter_no = ANY(%s) AND p.kind = 'recent'",
        (list(meter_nos),),
    )
    return {row["meter_no"]: row for row in rows}


def count_drifted(connection: PgConnection) -> int:
    """How many meters in use have a drift that stands."""
    row = connection.execute(
        "SELECT count(*) AS drifted FROM meter_proofs p JOIN meters m ON m.no = p.meter_no AND m.revision = p.revision"
        " WHERE p.kind = 'recent' AND NOT p.ok AND m.archived_at IS NULL"
    ).fetchone()
    assert row is not None
    return row["drifted"]


def record(
    connection: PgConnection, provable: Provable, finding: Finding, *, repair: bool, now: datetime
) -> bool | None:
    """Keep what a proof found, and tell of a drift; with `repair` have the meter counted anew.

    A drift stands until a full proof of the revision finds none, or readers go over to another revision: a proof of
    what came since says nothing of what was wrong before. So a repair that could not begin at once begins later.

    Returns whether a repair was begun; None when readers have left the revision meanwhile, so that nothing was proven.
    The last step of a transaction (see `catalogue.append_changes`).
    """
    meter = provable.meter
    row = connection.execute(
        "SELECT revision FROM meters WHERE no = %s AND archived_at IS NULL FOR UPDATE", (meter.meter_no,)
    ).fetchone()
    if row is None or row["revision"] != meter.revision:
        return None
    kinds = {finding.kind, ProofKind.RECENT}  # a full proof is one of what came lately, too
    found = {_keep(connection, meter, finding, kind, now) for kind in kinds}
    if finding.drifted:
        _tell(connection, provable, finding, now)
    return found != {True} and repair and _repair(connection, provable, now)


#: The drift that was found before is not looked for by this proof.
_STANDS: LiteralString = "(NOT p.ok AND p.revision = excluded.revision AND NOT %(is_full)s)"


def _keep(connection: PgConnection, meter: MeterEntry, finding: Finding, kind: ProofKind, now: datetime) -> bool:
    """Keep the finding as the newest proof of this kind; whether no drift stands now."""
    row = connection.execute(
        "INSERT INTO meter_proofs AS p (meter_no, revision, kind, proven_at, ok, seqs, events, windows, drifted,"  # noqa: S608 - texts of this file
        " examples) VALUES (%(meter_no)s, %(revision)s, %(kind)s, %(now)s, %(drifted)s = 0, %(seqs)s, %(events)s,"
        " %(windows)s, %(drifted)s, %(examples)s) ON CONFLICT (meter_no, kind) DO UPDATE SET"
        " revision = excluded.revision, proven_at = excluded.proven_at, seqs = excluded.seqs,"
        " events = excluded.events, windows = excluded.windows,"
        f" ok = excluded.ok AND NOT {_STANDS},"
        f" drifted = excluded.drifted + CASE WHEN {_STANDS} THEN p.drifted ELSE 0 END,"
        f" examples = CASE WHEN {_STANDS} AND excluded.ok THEN p.examples ELSE excluded.examples END"
        " RETURNING ok",
        {
            "meter_no": meter.meter_no,
            "revision": meter.revision,
            "kind": kind,
            "now": now,
            "seqs": jsonb({str(shard): seq for shard, seq in finding.seqs.items()}),
            "events": finding.events,
            "windows": finding.windows,
            "drifted": finding.drifted,
            "examples": jsonb(list(finding.examples)),
            "is_full": finding.kind is ProofKind.FULL,
        },
    ).fetchone()
    assert row is not None
    return row["ok"]


def _tell(connection: PgConnection, provable: Provable, finding: Finding, now: datetime) -> None:
    outbox.append(
        connection,
        tenant_id=provable.tenant_id,
        event=SystemEvent.METER_DRIFTED,
        object_id=provable.meter_id,
        data={
            "id": provable.meter_id,
            "key": provable.key,
            "revision": provable.meter.revision,
            "drifted": finding.drifted,
            "examples": list(finding.examples),
        },
        now=now,
    )


def _repair(connection: PgConnection, provable: Provable, now: datetime) -> bool:
    meter_no = provable.meter.meter_no
    held = connection.execute(
        "SELECT FROM meter_revisions WHERE meter_no = %s"
        " AND (state IN ('waiting', 'counting') OR (reason = 'repair' AND created_at > %s)) LIMIT 1",
        (meter_no, now - REPAIR_AGAIN),
    ).fetchone()
    if held is not None:
        return False
    revision = meter_builds.next_revision(connection, meter_no=meter_no)
    entry = msgspec.structs.replace(provable.meter, revision=revision)
    meter_builds.insert_revision(connection, meter=entry, reason=Reason.REPAIR, now=now)
    meter_builds.begin(connection, tenant_no=provable.tenant_no, meter=entry, superseded=[])
    return True
