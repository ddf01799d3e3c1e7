"""Features: what a plan may entitle to."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row


def insert_feature(
    connection: PgConnection,
    *,
    feature_id: str,
    tenant_id: str,
    key: str,
    name: str,
    kind: str,
    meter_id: str | None,
    on_unknown: str,
    metadata: dict[str, str],
    now: datetime,
) -> Row | None:
    """Store a new feature; None when the tenant has this key already."""
    return connection.execute(
        "INSERT INTO features (id, tenant_id, key, name, type, meter_id, on_unknown, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, key) DO NOTHING RETURNING *",
        (feature_id, tenant_id, key, name, kind, meter_id, on_unknown, jsonb(metadata), now),
    ).fetchone()


def update_feature(
    connection: PgConnection, *, feature_id: str, name: str, on_unknown: str, metadata: dict[str, str]
) -> None:
    """Write what may change of a feature."""
    connection.execute(
        "UPDATE features SET name = %s, on_unknown = %s, metadata = %s WHERE id = %s",
        (name, on_unknown, jsonb(metadata), feature_id),
    )


def load_feature(connection: PgConnection, *, tenant_id: str, reference: str) -> Row | None:
    """The feature with this id, or else with this key; `meter` is its meter's key."""
    return connection.execute(
        "SELECT features.*, meters.key AS meter FROM features LEFT JOIN meters ON meters.id = meter_id"
        " WHERE features.tenant_id = %(tenant_id)s AND (features.id = %(reference)s OR features.key = %(reference)s)"
        " ORDER BY features.id <> %(reference)s LIMIT 1",
        {"tenant_id": tenant_id, "reference": reference},
    ).fetchone()


def load_features(connection: PgConnection, *, tenant_id: str, references: Sequence[str]) -> dict[str, Row]:
    """Features by each reference, id or key, each with the `aggregation` of its meter."""
    rows = connection.execute(
        "SELECT features.*, meters.aggregation FROM features LEFT JOIN meters ON meters.id = meter_id"
        " WHERE features.tenant_id = %(tenant_id)s"
        " AND (features.id = ANY(%(references)b) OR features.key = ANY(%(references)b))",
        {"tenant_id": tenant_id, "references": list(set(references))},
    ).fetchall()
    return {row["key"]: row for row in rows} | {row["id"]: row for row in rows}


def load_meter_keys(connection: PgConnection, *, feature_ids: Sequence[str]) -> dict[str, str]:
    """The key of the meter of each metered feature of these, by the feature's id."""
    rows = connection.execute(
        "SELECT features.id, meters.key FROM features JOIN meters ON meters.id = meter_id WHERE features.id = ANY(%s)",
        (list(feature_ids),),
    )
    return {row["id"]: row["key"] for row in rows}


def list_features(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The tenant's features, newest first, each with the key of its `meter`."""
    return connection.execute(
        "SELECT features.*, meters.key AS meter FROM features LEFT JOIN meters ON meters.id = meter_id"
        " WHERE features.tenant_id = %(tenant_id)s AND (%(before_id)s::text IS NULL OR features.id < %(before_id)s)"
        " ORDER BY features.id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()
