"""First answers of POSTs that carried an Idempotency-Key, kept for a day beside their effect."""

from datetime import datetime, timedelta

from infra.postgres.pool import PgConnection, Row

KEPT = timedelta(hours=24)
MAX_CLEANED_AT_ONCE = 20  # old answers each new one sweeps away: the table shrinks faster than it grows


def claim(connection: PgConnection, *, tenant_id: str, key: str, now: datetime) -> Row | None:
    """Wait until no other transaction works under this key, then give its answer if there is one not older than a day.

    The key is ours until the caller's transaction ends. Row: request_sha256, status, body.
    """
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"idempotency {tenant_id} {key}",))
    return connection.execute(
        "SELECT request_sha256, status, body FROM idempotency_keys"
        " WHERE tenant_id = %s AND key = %s AND created_at > %s",
        (tenant_id, key, now - KEPT),
    ).fetchone()


def store(
    connection: PgConnection,
    *,
    tenant_id: str,
    key: str,
    request_sha256: bytes,
    status: int,
    body: bytes,
    now: datetime,
) -> None:
    """Keep the answer under a key that the caller has claimed, and sweep away a few that are too old."""
    connection.execute(
        "INSERT INTO idempotency_keys (tenant_id, key, request_sha256, status, body, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, key) DO UPDATE SET"
        " request_sha256 = excluded.request_sha256, status = excluded.status, body = excluded.body,"
        " created_at = excluded.created_at",
        (tenant_id, key, request_sha256, status, body, now),
    )
    connection.execute(
        "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys"
        " WHERE created_at <= %s ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        (now - KEPT, MAX_CLEANED_AT_ONCE),
    )
