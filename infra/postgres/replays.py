"""Subjects that came to the catalogue after events of theirs, and test clocks that were moved on: up to which version
those events have been replayed."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from infra.postgres.pool import PgConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRange:
    """Versions of the catalogue with after < version <= up_to."""

    after: int
    up_to: int


def replayable_versions(connection: PgConnection, *, shards: int) -> VersionRange | None:
    """The versions that no flow of the layout has still to learn of, and whose subjects are not replayed yet.

    Every batch that was judged by a catalogue before `up_to` is committed, and none will be any more. None: no such
    version.
    """
    row = connection.execute(
        "SELECT replayed_version AS after, least("
        " (SELECT CASE WHEN count(*) = %(shards)s THEN min(catalogue_version) ELSE 0 END"
        "  FROM shards WHERE shard < %(shards)s),"
        " (SELECT min(catalogue_version) FROM intents WHERE state = 'pending')) AS up_to FROM catalogue_head",
        {"shards": shards},
    ).fetchone()
    assert row is not None
    return VersionRange(**row) if row["up_to"] > row["after"] else None


class ArrivedSubject(NamedTuple):
    """A subject that the catalogue names from this version on."""

    version: int
    tenant_no: int
    subject: str


BEFORE_ALL = ArrivedSubject(0, 0, "")


def arrived_subjects(
    connection: PgConnection, *, versions: VersionRange, past: ArrivedSubject, limit: int
) -> list[ArrivedSubject]:
    """The subjects that came within these versions, in the order of versions, those after `past`."""
    rows = connection.execute(
        "SELECT version, tenant_no, key AS subject FROM catalogue_changes"
        " WHERE kind = 'subject' AND body IS NOT NULL AND version > %s AND version <= %s"
        " AND (version, tenant_no, key) > (%s, %s, %s) ORDER BY version, tenant_no, key LIMIT %s",
        (versions.after, versions.up_to, *past, limit),
    )
    return [ArrivedSubject(**row) for row in rows]


class MovedClock(NamedTuple):
    """A test clock that shows `now` from this version on, and the numbers of its customers."""

    version: int
    tenant_no: int
    clock_no: int
    now: datetime
    customers: list[int]


def moved_clocks(
    connection: PgConnection, *, versions: VersionRange, past: tuple[int, int], limit: int
) -> list[MovedClock]:
    """The clocks with customers that were moved within these versions, in the order of (version, clock_no), those after
    `past`."""
    rows = connection.execute(
        "SELECT h.version, h.tenant_no, t.no AS clock_no, (h.body ->> 'now')::timestamptz AS now,"
        " array_agg(c.no ORDER BY c.no) AS customers"
        " FROM catalogue_changes h JOIN test_clocks t ON t.no::text = h.key JOIN customers c ON c.test_clock_id = t.id"
        " WHERE h.kind = 'clock' AND h.version > %s AND h.version <= %s AND (h.version, t.no) > (%s, %s)"
        " GROUP BY h.version, h.tenant_no, t.no, h.body ORDER BY h.version, t.no LIMIT %s",
        (versions.after, versions.up_to, *past, limit),
    )
    return [MovedClock(**row) for row in rows]


def record_replayed(connection: PgConnection, *, version: int) -> None:
    """The changes of all subjects that came up to this version are on the log."""
    connection.execute(
        "UPDATE catalogue_head SET replayed_version = %s WHERE replayed_version < %s", (version, version)
    )
