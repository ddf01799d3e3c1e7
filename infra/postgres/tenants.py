"""Tenants: who everything belongs to."""

from datetime import datetime

from infra.postgres.pool import PgConnection, Row
from schemas.errors import Conflict

ROOT_TENANT_ID = "ten_default"
ROOT_KEY_ID = "key_root"


def insert_tenant(connection: PgConnection, *, tenant_id: str, name: str, now: datetime) -> Row:
    """Store a new tenant and return its row."""
    row = connection.execute(
        "INSERT INTO tenants (id, name, created_at) VALUES (%s, %s, %s) RETURNING no, id, name, metadata, created_at",
        (tenant_id, name, now),
    ).fetchone()
    assert row is not None
    return row


def ensure_root_key(connection: PgConnection, *, secret_sha256: bytes, now: datetime) -> None:
    """Make tenant `default` and let exactly this key be its operator key; the one set before opens nothing any more.

    Any number of processes may do it at once and again. Raises Conflict when the key is already another one's.
    """
    connection.execute(
        "INSERT INTO tenants (id, name, created_at) VALUES (%s, 'default', %s) ON CONFLICT (id) DO NOTHING",
        (ROOT_TENANT_ID, now),
    )
    taken = connection.execute(
        "SELECT 1 FROM api_keys WHERE secret_sha256 = %s AND id <> %s", (secret_sha256, ROOT_KEY_ID)
    ).fetchone()
    if taken is not None:
        raise Conflict("api_key.already_exists", "METERLINE_ROOT_KEY is the secret of an API key; set another one.")
    connection.execute(
        "INSERT INTO api_keys (id, tenant_id, name, role, secret_sha256, created_at)"
        " VALUES (%s, %s, 'root', 'operator', %s, %s)"
        " ON CONFLICT (id) DO UPDATE SET secret_sha256 = excluded.secret_sha256, revoked_at = NULL"
        " WHERE api_keys.secret_sha256 <> excluded.secret_sha256 OR api_keys.revoked_at IS NOT NULL",
        (ROOT_KEY_ID, ROOT_TENANT_ID, secret_sha256, now),
    )


def load_clocked_tenants(connection: PgConnection, tenant_ids: list[str]) -> set[str]:
    """Those of the tenants that have test clocks: their events may have any time."""
    rows = connection.execute("SELECT DISTINCT tenant_id FROM test_clocks WHERE tenant_id = ANY(%s)", (tenant_ids,))
    return {row["tenant_id"] for row in rows}


def load_tenant_numbers(connection: PgConnection, tenant_ids: list[str]) -> dict[str, int]:
    """The numbers of those tenants that there are, by id."""
    rows = connection.execute("SELECT id, no FROM tenants WHERE id = ANY(%s)", (tenant_ids,)).fetchall()
    return {row["id"]: row["no"] for row in rows}
