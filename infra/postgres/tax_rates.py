"""Tax rates: percentages with a name. Customers have some; what was issued by one keeps a copy of it."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row


def insert_tax_rate(
    connection: PgConnection,
    *,
    tax_rate_id: str,
    tenant_id: str,
    key: str,
    name: str,
    percent: Decimal,
    inclusive: bool,
    metadata: dict[str, str],
    now: datetime,
) -> Row | None:
    """Store a new rate; None when the tenant has this key already."""
    return connection.execute(
        "INSERT INTO tax_rates (id, tenant_id, key, name, percent, inclusive, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, key) DO NOTHING RETURNING *",
        (tax_rate_id, tenant_id, key, name, percent, inclusive, jsonb(metadata), now),
    ).fetchone()


def load_tax_rate(connection: PgConnection, *, tenant_id: str, reference: str, lock: bool = False) -> Row | None:
    """The rate with this id, or else with this key. With `lock` nobody changes it before we commit."""
    query = (
        "SELECT * FROM tax_rates WHERE tenant_id = %(tenant_id)s AND (id = %(reference)s OR key = %(reference)s)"
        " ORDER BY id <> %(reference)s LIMIT 1"
    )
    return connection.execute(
        query + " FOR UPDATE" if lock else query, {"tenant_id": tenant_id, "reference": reference}
    ).fetchone()


def load_tax_rates(connection: PgConnection, *, tenant_id: str, references: Sequence[str]) -> dict[str, Row]:
    """The rates in use by each reference, id or key; archived ones are not found."""
    rows = connection.execute(
        "SELECT * FROM tax_rates WHERE tenant_id = %(tenant_id)s AND archived_at IS NULL"
        " AND (id = ANY(%(references)s) OR key = ANY(%(references)s))",
        {"tenant_id": tenant_id, "references": list(references)},
    ).fetchall()
    return {row["key"]: row for row in rows} | {row["id"]: row for row in rows}


def load_by_ids(connection: PgConnection, tax_rate_ids: Sequence[str]) -> dict[str, Row]:
    """Rates by their ids, archived or not."""
    rows = connection.execute("SELECT * FROM tax_rates WHERE id = ANY(%s)", (list(tax_rate_ids),))
    return {row["id"]: row for row in rows}


def list_tax_rates(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The tenant's rates, newest first, archived ones too."""
    return connection.execute(
        "SELECT * FROM tax_rates WHERE tenant_id = %(tenant_id)s"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def update_tax_rate(
    connection: PgConnection,
    *,
    tax_rate_id: str,
    name: str,
    percent: Decimal,
    inclusive: bool,
    metadata: dict[str, str],
    archived_at: datetime | None,
) -> Row:
    """Write the whole of what may change; the caller has the row locked. What was issued stays as it is."""
    row = connection.execute(
        "UPDATE tax_rates SET name = %s, percent = %s, inclusive = %s, metadata = %s, archived_at = %s WHERE id = %s"
        " RETURNING *",
        (name, percent, inclusive, jsonb(metadata), archived_at, tax_rate_id),
    ).fetchone()
    assert row is not None
    return row
