"""Accounts that tenants have at providers of payments, with their secrets."""

from datetime import datetime

from infra.postgres.pool import PgConnection, Row


def save_provider(
    connection: PgConnection,
    *,
    provider_id: str,
    tenant_id: str,
    provider: str,
    secret_key: str,
    webhook_secret: str,
    api_base: str,
    now: datetime,
) -> Row:
    """Connect a provider, or replace the secrets of the one that is connected, which keeps its id."""
    row = connection.execute(
        "INSERT INTO payment_providers (id, tenant_id, provider, secret_key, webhook_secret, api_base, created_at,"
        " updated_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, provider) DO UPDATE SET"
        " secret_key = excluded.secret_key, webhook_secret = excluded.webhook_secret, api_base = excluded.api_base,"
        " updated_at = excluded.updated_at RETURNING *",
        (provider_id, tenant_id, provider, secret_key, webhook_secret, api_base, now, now),
    ).fetchone()
    assert row is not None
    return row


def load_provider(connection: PgConnection, *, tenant_id: str, provider: str) -> Row | None:
    """What the tenant has connected."""
    return connection.execute(
        "SELECT * FROM payment_providers WHERE tenant_id = %s AND provider = %s", (tenant_id, provider)
    ).fetchone()


def load_provider_by_id(connection: PgConnection, provider_id: str) -> Row | None:
    """The same by the name that stands where the provider sends its events."""
    return connection.execute("SELECT * FROM payment_providers WHERE id = %s", (provider_id,)).fetchone()


def remove_provider(connection: PgConnection, *, tenant_id: str, provider: str) -> bool:
    """Forget the secrets, unless something of the provider is pending: False then."""
    connection.execute(
        "SELECT FROM payment_providers WHERE tenant_id = %s AND provider = %s FOR UPDATE", (tenant_id, provider)
    )
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM payments WHERE tenant_id = %(tenant_id)s AND provider = %(provider)s"
        " AND status = 'pending') OR EXISTS (SELECT FROM refunds WHERE tenant_id = %(tenant_id)s"
        " AND status = 'pending') AS busy",
        {"tenant_id": tenant_id, "provider": provider},
    ).fetchone()
    assert row is not None
    if row["busy"]:
        return False
    connection.execute("DELETE FROM payment_providers WHERE tenant_id = %s AND provider = %s", (tenant_id, provider))
    return True
