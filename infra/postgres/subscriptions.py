"""Subscriptions: a customer on one version of a plan. `billing` and `invoices` move on what is billed of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.billing import BilledSubscription, Phase

#: A subscription with the phase in force at `now`, the first one before the start. Its status holds from an instant on,
#: billed or not yet: a start, the end of a trial, a pause, an end, a cancellation. `past_due_since` is written.
_VIEW = """
SELECT * FROM (
  SELECT s.*, s.xmin::text AS row_version, t.no AS tenant_no, c.no AS customer_no, c.external_id, p.key AS plan_key,
         f.no AS phase_no, f.plan_id AS plan_id_now, f.plan_version AS plan_version_now, v.prices,
         CASE
           WHEN s.status IN ('canceled', 'ended') THEN s.status
           WHEN s.cancel_at <= moment.now AND s.cancel_at <= coalesce(s.end_at, 'infinity') THEN 'canceled'
           WHEN s.end_at <= moment.now THEN 'ended'
           WHEN s.trial_end_at <= moment.now AND s.status IN ('draft', 'trialing')
                AND (s.trial_end_behavior = 'cancel' OR s.trial_end_behavior = 'cancel_without_payment_method'
                     AND NOT payer.has_payment_method) THEN 'canceled'
           WHEN s.start_at > moment.now OR s.status = 'draft' AND s.next_bill_at IS NULL THEN 'draft'
           WHEN f.is_paused THEN 'paused'
           WHEN s.trial_end_at > moment.now THEN 'trialing'
           WHEN s.past_due_since IS NOT NULL THEN 'past_due'
           WHEN s.status IN ('draft', 'trialing', 'paused') THEN 'active'
           ELSE s.status
         END AS status_now
  FROM subscriptions s
  JOIN tenants t ON t.id = s.tenant_id
  JOIN customers c ON c.id = s.customer_id
  JOIN customers payer ON payer.id = coalesce(c.parent_id, c.id)
  LEFT JOIN test_clocks k ON k.id = s.test_clock_id
  CROSS JOIN LATERAL (SELECT coalesce(k.now, %(now)s) AS now) AS moment
  JOIN LATERAL (
    SELECT no, plan_id, plan_version, is_paused FROM subscription_phases
    WHERE subscription_id = s.id AND starts_at <= greatest(moment.now, s.start_at)
    ORDER BY starts_at DESC, no DESC LIMIT 1
  ) f ON true
  JOIN plans p ON p.id = f.plan_id
  JOIN plan_versions v ON v.plan_id = f.plan_id AND v.version = f.plan_version
) AS subscriptions
"""
#: What of them is listed, parked ones by an index of their own.
_PARKED: dict[bool | None, LiteralString] = {
    None: "",
    True: " AND parked_reason IS NOT NULL",
    False: " AND parked_reason IS NULL",
}


def insert_subscription(
    connection: PgConnection, subscription: BilledSubscription, *, metadata: dict[str, str], now: datetime
) -> None:
    """Store a new subscription with its phases. Nothing of it is billed yet; the first statement is due at
    `next_bill_at`. Its test clock is its customer's."""
    connection.execute(
        "INSERT INTO subscriptions (id, tenant_id, customer_id, plan_id, plan_version, status, currency, timezone,"
        " start_at, billing_anchor, alignment, quantities, price_overrides, discounts, commitment, end_at, cancel_at,"
        " next_bill_at, trial_end_at, trial_end_behavior, invoice_threshold, test_clock_id, metadata, created_at)"
        " SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, test_clock_id, %s,"
        " %s FROM customers WHERE id = %s",
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
            subscription.cancel_at,
            subscription.next_bill_at,
            subscription.trial_end_at,
            subscription.trial_end_behavior,
            subscription.invoice_threshold,
            jsonb(metadata),
            now,
            subscription.customer_id,
        ),
    )
    _insert_phases(connection, subscription.id, subscription.timeline, now=now)


def save_phases(
    connection: PgConnection,
    subscription: BilledSubscription,
    *,
    bill_at: datetime | None,
    usage_due: bool,
    now: datetime,
) -> None:
    """Store the last phase of a subscription that is locked, in place of those that were to start after it.

    `subscription` is as `with_phase` made it; `bill_at` and `usage_due` are those of its next statement.
    """
    phase = subscription.phases[-1]
    connection.execute(
        "DELETE FROM subscription_phases WHERE subscription_id = %s AND (starts_at > %s OR no >= %s)",
        (subscription.id, phase.starts_at, phase.no),
    )
    _insert_phases(connection, subscription.id, [phase], now=now)
    connection.execute(
        "UPDATE subscriptions SET next_bill_at = %s, usage_due = %s WHERE id = %s",
        (bill_at, usage_due, subscription.id),
    )


def save_discounts(connection: PgConnection, *, subscription_id: str, discounts: Sequence[Mapping[str, Any]]) -> None:
    """Put these in the place of all discounts of a subscription that is locked."""
    connection.execute("UPDATE subscriptions SET discounts = %s WHERE id = %s", (jsonb([*discounts]), subscription_id))


def _insert_phases(connection: PgConnection, subscription_id: str, phases: Sequence[Phase], *, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO subscription_phases (subscription_id, no, starts_at, plan_id, plan_version, quantities,"
            " price_overrides, entitlement_overrides, addons, commitment, is_paused, keeps_entitlements, prorate,"
            " invoice_now, is_late, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    subscription_id,
                    phase.no,
                    phase.starts_at,
                    phase.plan_id,
                    phase.plan_version,
                    jsonb(phase.quantities),
                    jsonb(phase.price_overrides),
                    jsonb(phase.entitlement_overrides),
                    jsonb(phase.addons),
                    None if phase.commitment is None else jsonb(phase.commitment),
                    phase.is_paused,
                    phase.keeps_entitlements,
                    phase.prorate,
                    phase.invoice_now,
                    phase.is_late,
                    now,
                )
                for phase in phases
            ],
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
    parked: bool | None,
    before_id: str | None,
    limit: int,
    now: datetime,
) -> list[Row]:
    """The tenant's subscriptions, newest first, those that the filters let through (None: any)."""
    return connection.execute(
        _VIEW + " WHERE tenant_id = %(tenant_id)s"
        " AND (%(customer_id)s::text IS NULL OR customer_id = %(customer_id)s)"
        " AND (%(plan_id)s::text IS NULL OR plan_id_now = %(plan_id)s)"
        " AND (%(status)s::text IS NULL OR status_now = %(status)s)"
        + _PARKED[parked]
        + " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
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
