"""The catalogue log that flows read. Writers append in the transaction of their change, as its last statement."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from schemas.catalogue import ENTRY_TYPES, ClockEntry, EntitlementEntry, EntryKind, MeterEntry, SubjectEntry

Entry = SubjectEntry | MeterEntry | EntitlementEntry | ClockEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The newest body of one key. `entry` None: the key is gone."""

    kind: EntryKind
    tenant_no: int
    key: str
    entry: Entry | None


def append_changes(connection: PgConnection, changes: Iterable[Change]) -> int:
    """Give the changes the next version and return it. Holds the head's row lock until the caller commits, so
    versions become visible in order: call it last."""
    row = connection.execute("UPDATE catalogue_head SET version = version + 1 RETURNING version").fetchone()
    assert row is not None
    version: int = row["version"]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO catalogue_changes (kind, tenant_no, key, version, body) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (kind, tenant_no, key, version) DO UPDATE SET body = excluded.body",
            [(c.kind, c.tenant_no, c.key, version, None if c.entry is None else jsonb(c.entry)) for c in changes],
        )
    return version


def head_version(connection: PgConnection) -> int:
    """The newest version. All changes at or below it are visible."""
    row = connection.execute("SELECT version FROM catalogue_head").fetchone()
    assert row is not None
    return row["version"]


def load_changes(connection: PgConnection, *, after: int, up_to: int) -> list[Change]:
    """The newest change of every key with after < version <= up_to. `after=0` gives the whole state at `up_to`."""
    rows = connection.execute(
        "SELECT DISTINCT ON (kind, tenant_no, key) kind, tenant_no, key, body FROM catalogue_changes"
        " WHERE version > %s AND version <= %s ORDER BY kind, tenant_no, key, version DESC",
        (after, up_to),
    )
    return [
        Change(
            kind=EntryKind(row["kind"]),
            tenant_no=row["tenant_no"],
            key=row["key"],
            entry=None if row["body"] is None else msgspec.convert(row["body"], ENTRY_TYPES[EntryKind(row["kind"])]),
        )
        for row in rows
    ]
