"""Meters, as readers use them: the row of a meter has the definition of the revision that answers come from.

The definitions before and after, and how a new one is built, are in `meter_builds`.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.catalogue import MeterEntry
from schemas.meters import Filter


def insert_meter(
    connection: PgConnection,
    *,
    meter_id: str,
    tenant_id: str,
    key: str,
    name: str,
    event_type: str,
    aggregation: str,
    value: str | None,
    filters: Sequence[Filter],
    group_by: Sequence[str],
    metadata: dict[str, str],
    now: datetime,
    is_built: bool = True,
    built_until: datetime | None = None,
) -> Row | None:
    """Store a new meter at revision 1; None when the tenant has this key already. `is_built`, `built_until`: see
    `complete_until`."""
    return connection.execute(
        "INSERT INTO meters (id, tenant_id, key, name, event_type, aggregation, value, filters, group_by, metadata,"
        " created_at, is_built, built_until) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, key) DO NOTHING RETURNING *",
        (
            meter_id,
            tenant_id,
            key,
            name,
            event_type,
            aggregation,
            value,
            jsonb(list(filters)),
            list(group_by),
            jsonb(metadata),
            now,
            is_built,
            built_until,
        ),
    ).fetchone()


def load_meter(connection: PgConnection, *, tenant_id: str, reference: str, lock: bool = False) -> Row | None:
    """The meter with this id, or else with this key. With `lock` nobody changes it before we commit."""
    query = (
        "SELECT * FROM meters WHERE tenant_id = %(tenant_id)s AND (id = %(reference)s OR key = %(reference)s)"
        " ORDER BY id <> %(reference)s LIMIT 1"
    )
    return connection.execute(
        query + " FOR UPDATE" if lock else query, {"tenant_id": tenant_id, "reference": reference}
    ).fetchone()


def load_meters(connection: PgConnection, *, tenant_id: str, references: Sequence[str]) -> dict[str, Row]:
    """Meters in use by each reference, id or key; locked against archiving until we commit."""
    rows = connection.execute(
        "SELECT * FROM meters WHERE tenant_id = %(tenant_id)s AND archived_at IS NULL"
        " AND (id = ANY(%(references)s) OR key = ANY(%(references)s)) ORDER BY id FOR SHARE",
        {"tenant_id": tenant_id, "references": list(references)},
    ).fetchall()
    return {row["key"]: row for row in rows} | {row["id"]: row for row in rows}


def load_entries(connection: PgConnection, *, meter_nos: Sequence[int]) -> dict[int, MeterEntry]:
    """What these meters count, by their numbers."""
    rows = connection.execute(
        "SELECT no AS meter_no, revision, event_type, aggregation, value, filters, group_by FROM meters"
        " WHERE no = ANY(%s)",
        (list(meter_nos),),
    )
    return {row["meter_no"]: msgspec.convert(row, MeterEntry) for row in rows}


def complete_until(connection: PgConnection, *, meter_nos: Sequence[int], as_of: datetime | None) -> datetime | None:
    """Up to when the usage of all these meters is complete, where usage itself is complete up to `as_of`.

    Earlier than `as_of` only while one of them is built for the first time; None when nothing is known. Read `as_of`
    before, and the windows after.
    """
    rows = connection.execute(
        "SELECT built_until FROM meters WHERE no = ANY(%s) AND NOT is_built", (list(meter_nos),)
    ).fetchall()
    bounds = [as_of, *(row["built_until"] for row in rows)]
    known = [bound for bound in bounds if bound is not None]
    return min(known) if len(known) == len(bounds) else None


def load_unbuilt(connection: PgConnection, *, meter_nos: Sequence[int]) -> frozenset[int]:
    """Those of these meters that are still built for the first time: their usage says nothing of the past yet."""
    rows = connection.execute("SELECT no FROM meters WHERE no = ANY(%s) AND NOT is_built", (list(meter_nos),))
    return frozenset(row["no"] for row in rows)


def list_meters(
    connection: PgConnection, *, tenant_id: str, archived: bool, before_id: str | None, limit: int
) -> list[Row]:
    """The tenant's meters, newest first."""
    return connection.execute(
        "SELECT * FROM meters WHERE tenant_id = %(tenant_id)s AND (%(archived)s OR archived_at IS NULL)"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "archived": archived, "before_id": before_id, "limit": limit},
    ).fetchall()


def count_meters(connection: PgConnection, *, tenant_id: str) -> int:
    """How many meters the tenant has in use."""
    row = connection.execute(
        "SELECT count(*) AS meters FROM meters WHERE tenant_id = %s AND archived_at IS NULL", (tenant_id,)
    ).fetchone()
    assert row is not None
    return row["meters"]


def is_meter_used(connection: PgConnection, *, tenant_id: str, meter_id: str, key: str) -> bool:
    """Whether a feature or a price of any plan version names the meter."""
    row = connection.execute(
        "SELECT 1 FROM features WHERE meter_id = %(meter_id)s"
        " UNION ALL SELECT 1 FROM plan_versions JOIN plans ON plans.id = plan_id"
        "  WHERE tenant_id = %(tenant_id)s AND prices @> %(price)s LIMIT 1",
        {"meter_id": meter_id, "tenant_id": tenant_id, "price": jsonb([{"meter": key}])},
    ).fetchone()
    return row is not None


def archive_meter(connection: PgConnection, *, meter_id: str, now: datetime) -> Row:
    """Put the meter away. One that is away already keeps its first `archived_at`."""
    row = connection.execute(
        "UPDATE meters SET archived_at = coalesce(archived_at, %s) WHERE id = %s RETURNING *", (now, meter_id)
    ).fetchone()
    assert row is not None
    return row


def update_meter(connection: PgConnection, *, meter_id: str, name: str, metadata: dict[str, str]) -> Row:
    """Change what nothing is counted by."""
    row = connection.execute(
        "UPDATE meters SET name = %s, metadata = %s WHERE id = %s RETURNING *", (name, jsonb(metadata), meter_id)
    ).fetchone()
    assert row is not None
    return row


def mark_groups_over_limit(connection: PgConnection, *, meter_no: int, revision: int, at: datetime) -> None:
    """Note that the meter has more distinct groups than the limit, where readers use this revision. The first time
    stays."""
    connection.execute(
        "UPDATE meters SET groups_over_limit_at = %s WHERE no = %s AND revision = %s AND groups_over_limit_at IS NULL",
        (at, meter_no, revision),
    )


def load_matrix_prices(connection: PgConnection, *, tenant_id: str, key: str) -> list[Row]:
    """The groups that matrix prices of plan versions need of the meter: (plan, price, dimensions)."""
    return connection.execute(
        "SELECT DISTINCT plans.key AS plan, price ->> 'key' AS price, price -> 'dimensions' AS dimensions"
        " FROM plan_versions JOIN plans ON plans.id = plan_id, jsonb_array_elements(prices) AS price"
        " WHERE tenant_id = %(tenant_id)s AND prices @> %(matrix)s"
        " AND price @> %(price)s",
        {
            "tenant_id": tenant_id,
            "matrix": jsonb([{"meter": key, "model": "matrix"}]),
            "price": jsonb({"meter": key, "model": "matrix"}),
        },
    ).fetchall()


def load_meters_of_types(connection: PgConnection, *, tenant_id: str, types: Sequence[str]) -> list[Row]:
    """The tenant's meters of these event types, archived ones too, oldest first."""
    return connection.execute(
        "SELECT * FROM meters WHERE tenant_id = %s AND event_type = ANY(%s) ORDER BY id", (tenant_id, list(types))
    ).fetchall()


def load_event_types(connection: PgConnection, *, tenant_id: str) -> list[str]:
    """The event types that meters of the tenant count or have counted."""
    rows = connection.execute("SELECT DISTINCT event_type FROM meters WHERE tenant_id = %s", (tenant_id,))
    return sorted(row["event_type"] for row in rows)
