"""First answers of POSTs that carried an Idempotency-Key, kept for a day beside their effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.postgres.pool import PgConnection, Row

KEPT = timedelta(hours=24)
CONFLICT = "idempotency.conflict"  # the code of what is said when a key was used for another request
MAX_CLEANED_AT_ONCE = 20  # old answers each new one sweeps away: the table shrinks faster than it grows


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The answer that was given under a key."""

    key: str
    request_sha256: bytes
    status: int
    body: bytes


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
    given = Given(key=key, request_sha256=request_sha256, status=status, body=body)
    store_many(connection, tenant_id=tenant_id, given=[given], now=now)


def store_many(connection: PgConnection, *, tenant_id: str, given: Sequence[Given], now: datetime) -> None:
    """The same for many answers."""
    connection.execute(
        "INSERT INTO idempotency_keys (tenant_id, key, request_sha256, status, body, created_at)"
        " SELECT %s, g.key, g.request_sha256, g.status, g.body, %s"
        " FROM unnest(%s::text[], %s::bytea[], %s::integer[], %s::bytea[]) AS g (key, request_sha256, status, body)"
        " ON CONFLICT (tenant_id, key) DO UPDATE SET request_sha256 = excluded.request_sha256,"
        " status = excluded.status, body = excluded.body, created_at = excluded.created_at",
        (
            tenant_id,
            now,
            [each.key for each in given],
            [each.request_sha256 for each in given],
            [each.status for each in given],
            [each.body for each in given],
        ),
    )
    connection.execute(
        "DELETE FROM idempotency_keys WHERE (tenant_id, key) IN (SELECT tenant_id, key FROM idempotency_keys"
        " WHERE created_at <= %s ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        (now - KEPT, MAX_CLEANED_AT_ONCE * len(given)),
    )


def claim_many(
    connection: PgConnection, *, tenant_id: str, keys: Sequence[str], now: datetime
) -> tuple[set[str], dict[str, Row]]:
    """As `claim`, of many keys and without waiting: those that no other transaction works under, and by key what was
    answered. The keys are ours until the caller's transaction ends."""
    locked = connection.execute(
        "SELECT k.key FROM unnest(%s::text[]) AS k (key)"
        " WHERE pg_try_advisory_xact_lock(hashtextextended('idempotency ' || %s || ' ' || k.key, 0))",
        (list(keys), tenant_id),
    ).fetchall()
    ours = {row["key"] for row in locked}
    kept = connection.execute(
        "SELECT key, request_sha256, status, body FROM idempotency_keys"
        " WHERE tenant_id = %s AND key = ANY(%s) AND created_at > %s",
        (tenant_id, sorted(ours), now - KEPT),
    ).fetchall()
    return ours, {row["key"]: row for row in kept}
