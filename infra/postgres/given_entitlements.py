"""Entitlements that customers have of their own, without a subscription. In all else they are like others."""

from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row

_VIEW: LiteralString = (
    "SELECT e.no, e.id, e.tenant_id, e.customer_id, c.external_id AS customer, f.key AS feature, f.type,"
    " e.limit_quantity, e.value, e.reset, e.enforcement, e.rollover_max, e.timezone, e.starts_at, e.ends_at,"
    " e.metadata, e.created_at FROM entitlements e JOIN customers c ON c.id = e.customer_id"
    " JOIN features f ON f.id = e.feature_id WHERE e.tenant_id = %(tenant_id)s AND e.id IS NOT NULL"
)


def insert_given(
    connection: PgConnection,
    *,
    entitlement_id: str,
    tenant_id: str,
    customer_id: str,
    feature_id: str,
    terms: dict[str, Any],
    timezone: str,
    starts_at: datetime,
    ends_at: datetime | None,
    metadata: dict[str, str],
    now: datetime,
) -> None:
    """Store a new one. `terms`: limit, reset, enforcement and rollover_max of a metered feature, value of another."""
    limit, rollover_max, value = terms.get("limit"), terms.get("rollover_max"), terms.get("value")
    connection.execute(
        "INSERT INTO entitlements (id, source, tenant_id, customer_id, feature_id, limit_quantity, reset, enforcement,"
        " rollover_max, value, billing_period, billing_period_count, timezone, starts_at, effective_at, ends_at,"
        " metadata, created_at)"
        " VALUES (%(id)s, %(id)s, %(tenant_id)s, %(customer_id)s, %(feature_id)s, %(limit)s, %(reset)s,"
        " %(enforcement)s, %(rollover_max)s, %(value)s, 'once', 1, %(timezone)s, %(starts_at)s, %(starts_at)s,"
        " %(ends_at)s, %(metadata)s, %(now)s)",
        {
            "id": entitlement_id,
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "feature_id": feature_id,
            "limit": None if limit is None else Decimal(limit),
            "reset": terms.get("reset"),
            "enforcement": terms.get("enforcement"),
            "rollover_max": None if rollover_max is None else Decimal(rollover_max),
            "value": None if value is None else jsonb(value),
            "timezone": timezone,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "metadata": jsonb(metadata),
            "now": now,
        },
    )


def count_living(connection: PgConnection, *, customer_id: str, now: datetime) -> int:
    """How many of a customer's own have not ended at `now`."""
    row = connection.execute(
        "SELECT count(*) AS count FROM entitlements WHERE customer_id = %s AND id IS NOT NULL"
        " AND (ends_at IS NULL OR ends_at > %s)",
        (customer_id, now),
    ).fetchone()
    assert row is not None
    return row["count"]


def load_given(connection: PgConnection, *, tenant_id: str, customer_id: str, entitlement_id: str) -> Row | None:
    """One of a customer's own."""
    return connection.execute(
        _VIEW + " AND e.customer_id = %(customer_id)s AND e.id = %(id)s",
        {"tenant_id": tenant_id, "customer_id": customer_id, "id": entitlement_id},
    ).fetchone()


def list_given(
    connection: PgConnection,
    *,
    tenant_id: str,
    customer_id: str | None,
    feature_id: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's customers' own entitlements, newest first, those that the filters let through (None: any)."""
    return connection.execute(
        _VIEW + " AND (%(customer_id)s::text IS NULL OR e.customer_id = %(customer_id)s)"
        " AND (%(feature_id)s::text IS NULL OR e.feature_id = %(feature_id)s)"
        " AND (%(before_id)s::text IS NULL OR e.id < %(before_id)s) ORDER BY e.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "feature_id": feature_id,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()
