"""Subscriptions: a customer on one version of a plan. `billing` and `invoices` move on what is billed of them."""

from datetime import datetime

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.billing import BilledSubscription

#: The status at `now`: a start, an end or a cancellation holds from its instant on, billed or not yet.
_VIEW = """
SELECT * FROM (
  SELECT s.*, s.xmin::text AS row_version, t.no AS tenant_no, c.no AS customer_no, c.external_id, p.key AS plan_key,
         v.prices,
         CASE
           WHEN s.status IN ('canceled', 'ended') THEN s.status
           WHEN s.cancel_at <= %(now)s AND s.cancel_at <= coalesce(s.end_at, 'infinity') THEN 'canceled'
           WHEN s.end_at <= %(now)s THEN 'ended'
           WHEN s.status = 'draft' AND s.start_at <= %(now)s THEN 'active'
           ELSE s.status
         END AS status_now
  FROM subscriptions s
  JOIN tenants t ON t.id = s.tenant_id
  JOIN customers c ON c.id = s.customer_id
  JOIN plans p ON p.id = s.plan_id
  JOIN plan_versions v ON v.plan_id = s.plan_id AND v.version = s.plan_version
) AS subscriptions
"""


def insert_subscription(
    connection: PgConnection, subscription: BilledSubscription, *, metadata: dict[str, str], now: datetime
) -> None:
    """Store a new subscription. Nothing of it is billed yet; the first statement is due at `next_bill_at`."""
    connection.execute(
        "INSERT INTO subscriptions (id, tenant_id, customer_id, plan_id, plan_version, status, currency, timezone,"
        " start_at, billing_anchor, alignment, quantities, price_overrides, discounts, commitment, end_at,"
        " next_bill_at, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            subscription.id,
            subscription.tenant_id,
            subscription.customer_id,
            subscription.plan_id,
            subscription.plan_version,
            subscription.status,
            subscription.currency,
            subscription.timezone,
            subscription.start_at,
            subscription.billing_anchor,
            subscription.alignment,
            jsonb(subscription.quantities),
            jsonb(subscription.price_overrides),
            jsonb(subscription.discounts),
            None if subscription.commitment is None else jsonb(subscription.commitment),
            subscription.end_at,
            subscription.next_bill_at,
            jsonb(metadata),
            now,
        ),
    )


def load_subscription(connection: PgConnection, *, tenant_id: str, subscription_id: str, now: datetime) -> Row | None:
    """One subscription with its plan's prices and its status at `now`."""
    return connection.execute(
        _VIEW + " WHERE tenant_id = %(tenant_id)s AND id = %(subscription_id)s",
        {"tenant_id": tenant_id, "subscription_id": subscription_id, "now": now},
    ).fetchone()


def lock_subscription(connection: PgConnection, *, tenant_id: str, subscription_id: str) -> bool:
    """Keep everybody else from changing it until we commit; false when the tenant has no such subscription."""
    row = connection.execute(
        "SELECT 1 FROM subscriptions WHERE tenant_id = %s AND id = %s FOR UPDATE", (tenant_id, subscription_id)
    ).fetchone()
    return row is not None


def list_subscriptions(
    connection: PgConnection,
    *,
    tenant_id: str,
    customer_id: str | None,
    plan_id: str | None,
    status: str | None,
    before_id: str | None,
    limit: int,
    now: datetime,
) -> list[Row]:
    """The tenant's subscriptions, newest first, those that the filters let through (None: any)."""
    return connection.execute(
        _VIEW + " WHERE tenant_id = %(tenant_id)s"
        " AND (%(customer_id)s::text IS NULL OR customer_id = %(customer_id)s)"
        " AND (%(plan_id)s::text IS NULL OR plan_id = %(plan_id)s)"
        " AND (%(status)s::text IS NULL OR status_now = %(status)s)"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "plan_id": plan_id,
            "status": status,
            "before_id": before_id,
            "limit": limit,
            "now": now,
        },
    ).fetchall()


def cancel_subscription(
    connection: PgConnection,
    *,
    subscription_id: str,
    cancel_at: datetime,
    prorate: bool,
    next_bill_at: datetime | None,
    usage_due: bool,
) -> None:
    """Let it end at an instant. `next_bill_at` and `usage_due` are those of its next statement under that."""
    connection.execute(
        "UPDATE subscriptions SET cancel_at = %s, cancel_proration = %s, next_bill_at = %s, usage_due = %s"
        " WHERE id = %s",
        (cancel_at, prorate, next_bill_at, usage_due, subscription_id),
    )


def withdraw_subscription(connection: PgConnection, *, subscription_id: str, now: datetime) -> None:
    """Cancel one that has not started: it never will, and nothing is billed."""
    connection.execute(
        "UPDATE subscriptions SET status = 'canceled', cancel_at = %(now)s, canceled_at = %(now)s,"
        " next_bill_at = NULL WHERE id = %(id)s",
        {"now": now, "id": subscription_id},
    )
