"""Endpoints of webhooks: where a tenant wants to be told of what, and the secrets that sign it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row


def insert_endpoint(
    connection: PgConnection,
    *,
    endpoint_id: str,
    tenant_id: str,
    url: str,
    description: str,
    events: Sequence[str],
    secret: str,
    metadata: dict[str, str],
    now: datetime,
) -> Row:
    """Store a new endpoint, which is told of what happens from now on."""
    row = connection.execute(
        "INSERT INTO webhook_endpoints (id, tenant_id, url, description, events, secret, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING *",
        (endpoint_id, tenant_id, url, description, list(events), secret, jsonb(metadata), now),
    ).fetchone()
    assert row is not None
    return row


def count_endpoints(connection: PgConnection, *, tenant_id: str) -> int:
    """How many the tenant has. It can make no others until the caller commits."""
    connection.execute("SELECT FROM tenants WHERE id = %s FOR NO KEY UPDATE", (tenant_id,))
    row = connection.execute(
        "SELECT count(*) AS n FROM webhook_endpoints WHERE tenant_id = %s", (tenant_id,)
    ).fetchone()
    assert row is not None
    return row["n"]


def load_endpoint(connection: PgConnection, *, tenant_id: str, endpoint_id: str, lock: bool = False) -> Row | None:
    """One endpoint of the tenant; with `lock`, nobody changes it before we commit."""
    query = "SELECT * FROM webhook_endpoints WHERE tenant_id = %s AND id = %s"
    return connection.execute(query + " FOR NO KEY UPDATE" if lock else query, (tenant_id, endpoint_id)).fetchone()


def list_endpoints(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The tenant's endpoints, newest first."""
    return connection.execute(
        "SELECT * FROM webhook_endpoints WHERE tenant_id = %(tenant_id)s"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def update_endpoint(
    connection: PgConnection,
    *,
    endpoint_id: str,
    url: str,
    description: str,
    events: Sequence[str],
    metadata: dict[str, str],
) -> None:
    """Write what its owner may change; the caller has the row locked."""
    connection.execute(
        "UPDATE webhook_endpoints SET url = %s, description = %s, events = %s, metadata = %s WHERE id = %s",
        (url, description, list(events), jsonb(metadata), endpoint_id),
    )


def disable(connection: PgConnection, *, endpoint_id: str, reason: str, now: datetime) -> None:
    """Send it nothing more: `requested`, `gone` (it said so) or `failing`. One that is disabled keeps its reason."""
    connection.execute(
        "UPDATE webhook_endpoints SET disabled_at = %s, disabled_reason = %s WHERE id = %s AND disabled_at IS NULL",
        (now, reason, endpoint_id),
    )


def enable(connection: PgConnection, *, endpoint_id: str) -> None:
    """Send to it again, its failures forgotten."""
    connection.execute(
        "UPDATE webhook_endpoints SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL WHERE id = %s",
        (endpoint_id,),
    )


def note_result(connection: PgConnection, *, endpoint_id: str, failing_since: datetime | None) -> None:
    """Remember since when it fails; None: it does not."""
    connection.execute("UPDATE webhook_endpoints SET failing_since = %s WHERE id = %s", (failing_since, endpoint_id))


def rotate_secret(connection: PgConnection, *, endpoint_id: str, secret: str, old_until: datetime | None) -> None:
    """Sign with another secret; with the one before, too, until `old_until` (None: no more)."""
    connection.execute(
        "UPDATE webhook_endpoints SET old_secret_until = %(until)s::timestamptz,"
        " old_secret = CASE WHEN %(until)s::timestamptz IS NULL THEN NULL ELSE secret END, secret = %(secret)s"
        " WHERE id = %(id)s",
        {"until": old_until, "secret": secret, "id": endpoint_id},
    )


def delete_endpoint(connection: PgConnection, *, endpoint_id: str) -> None:
    """Delete it with its deliveries."""
    connection.execute("DELETE FROM webhook_endpoints WHERE id = %s", (endpoint_id,))


def load_listening(connection: PgConnection, *, tenant_ids: Sequence[str]) -> list[Row]:
    """id, tenant_id and events of the endpoints of these tenants that are sent to. None of them goes before we
    commit."""
    return connection.execute(
        "SELECT id, tenant_id, events FROM webhook_endpoints WHERE tenant_id = ANY(%s) AND disabled_at IS NULL"
        " ORDER BY id FOR KEY SHARE",
        (list(tenant_ids),),
    ).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class DueEndpoint:
    """An endpoint with a delivery that is due. `is_failing`: it answered nothing of late."""

    id: str
    tenant_id: str
    is_failing: bool


def find_due(connection: PgConnection, *, now: datetime, limit: int) -> list[DueEndpoint]:
    """Those that do not fail first, so that the limit never leaves them out for others. One index look-up an endpoint,
    however many deliveries wait."""
    rows = connection.execute(
        "SELECT id, tenant_id, failing_since IS NOT NULL AS is_failing FROM webhook_endpoints"
        " WHERE disabled_at IS NULL AND EXISTS (SELECT FROM webhook_deliveries d"
        " WHERE d.endpoint_id = webhook_endpoints.id AND d.status = 'pending' AND d.next_attempt_at <= %s)"
        " ORDER BY failing_since DESC NULLS FIRST LIMIT %s",
        (now, limit),
    )
    return [DueEndpoint(**row) for row in rows]
