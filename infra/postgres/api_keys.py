"""API keys: a name, a role, a tenant, and the SHA-256 of a secret that is shown once."""

from datetime import datetime

from infra.postgres.pool import PgConnection, Row


def load_principal(connection: PgConnection, *, secret_sha256: bytes) -> Row | None:
    """tenant_no, tenant_id, key_id and role of the key that is good now, and whether its tenant has test clocks; None
    when there is no such key."""
    return connection.execute(
        "SELECT tenants.no AS tenant_no, api_keys.tenant_id, api_keys.id AS key_id, api_keys.role,"
        " EXISTS (SELECT FROM test_clocks WHERE test_clocks.tenant_id = tenants.id) AS has_clocks"
        " FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id"
        " WHERE secret_sha256 = %s AND revoked_at IS NULL",
        (secret_sha256,),
    ).fetchone()


def insert_api_key(
    connection: PgConnection, *, key_id: str, tenant_id: str, name: str, role: str, secret_sha256: bytes, now: datetime
) -> Row:
    """Store a new key and return its row."""
    row = connection.execute(
        "INSERT INTO api_keys (id, tenant_id, name, role, secret_sha256, created_at) VALUES (%s, %s, %s, %s, %s, %s)"
        " RETURNING id, name, role, metadata, created_at, revoked_at, secret_sha256",
        (key_id, tenant_id, name, role, secret_sha256, now),
    ).fetchone()
    assert row is not None
    return row


def list_api_keys(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The tenant's keys, newest first, from the one before `before_id` on; revoked ones too."""
    return connection.execute(
        "SELECT id, name, role, metadata, created_at, revoked_at FROM api_keys"
        " WHERE tenant_id = %(tenant_id)s AND (%(before_id)s::text IS NULL OR id < %(before_id)s)"
        " ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def load_api_key(connection: PgConnection, *, tenant_id: str, key_id: str) -> Row | None:
    """One key of the tenant."""
    return connection.execute(
        "SELECT id, name, role, metadata, created_at, revoked_at, secret_sha256 FROM api_keys"
        " WHERE tenant_id = %s AND id = %s",
        (tenant_id, key_id),
    ).fetchone()


def revoke_api_key(connection: PgConnection, *, tenant_id: str, key_id: str, now: datetime) -> Row | None:
    """Shut a key. One that is shut already keeps its first `revoked_at`."""
    return connection.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, %s) WHERE tenant_id = %s AND id = %s"
        " RETURNING id, name, role, metadata, created_at, revoked_at, secret_sha256",
        (now, tenant_id, key_id),
    ).fetchone()
