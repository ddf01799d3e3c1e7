"""What customers are entitled to, written out a subscription, and how much of it they have used."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row

#: Entitlements with all that their decisions rest on, but what is used.
TERMS: LiteralString = (
    "SELECT e.no, e.tenant_id, e.subscription_id, e.customer_id, e.feature_id, e.limit_quantity, e.value, e.reset,"
    " e.enforcement, e.rollover_max, e.billing_period, e.billing_period_count, e.starts_at, e.effective_at, e.ends_at,"
    " e.source, f.key AS feature, f.type, f.on_unknown, m.no AS meter_no, m.aggregation,"
    # A trial that ended for want of a payment method is not written into `ends_at`: one might have come by then.
    " least(s.blocked_at, CASE WHEN s.trial_end_behavior = 'cancel_without_payment_method'"
    "  AND (s.status = 'canceled' AND s.cancel_at IS NULL"
    "   OR s.status IN ('draft', 'trialing') AND NOT payer.has_payment_method)"
    "  THEN least(e.ends_at, s.trial_end_at) ELSE e.ends_at END) AS holds_until,"
    " c.no AS customer_no, c.external_id AS customer, c.test_clock_id,"
    # A customer's own entitlement has no subscription.
    " coalesce(s.timezone, e.timezone) AS timezone, coalesce(s.alignment, 'anniversary') AS alignment,"
    " coalesce(s.billing_anchor, e.starts_at) AS billing_anchor"
    " FROM entitlements e JOIN features f ON f.id = e.feature_id LEFT JOIN meters m ON m.id = f.meter_id"
    " JOIN customers c ON c.id = e.customer_id LEFT JOIN subscriptions s ON s.id = e.subscription_id"
    " JOIN customers payer ON payer.id = coalesce(c.parent_id, c.id)"
)


def insert_entitlements(
    connection: PgConnection,
    *,
    tenant_id: str,
    subscription_id: str,
    customer_id: str,
    terms: Sequence[dict[str, Any]],
) -> None:
    """Write out entitlements of one subscription.

    `terms`: feature_id, source, billing_period, billing_period_count, starts_at, effective_at, ends_at, and of
    limit_quantity, rollover_max, value, reset, enforcement those that the feature's type has.
    """
    connection.execute(
        "INSERT INTO entitlements (tenant_id, subscription_id, customer_id, feature_id, source, limit_quantity,"
        " rollover_max, value, reset, enforcement, billing_period, billing_period_count, starts_at, effective_at,"
        " ends_at)"
        " SELECT %s, %s, %s, feature_id, source, limit_quantity, rollover_max, value, reset, enforcement,"
        " billing_period, billing_period_count, starts_at, effective_at, ends_at FROM jsonb_to_recordset(%s) AS terms"
        " (feature_id text, source text, limit_quantity numeric, rollover_max numeric, value jsonb, reset text,"
        " enforcement text, billing_period text, billing_period_count integer, starts_at timestamptz,"
        " effective_at timestamptz, ends_at timestamptz) ORDER BY effective_at, source <> 'plan'",
        (tenant_id, subscription_id, customer_id, jsonb(list(terms))),
    )


def end_entitlements(connection: PgConnection, ends: Sequence[tuple[int, datetime | None]]) -> None:
    """Let each of these entitlements, by its number, end at an instant, be it earlier or later than before; None:
    never."""
    connection.execute(
        "UPDATE entitlements SET ends_at = ends.at FROM unnest(%s::bigint[], %s::timestamptz[]) AS ends (no, at)"
        " WHERE entitlements.no = ends.no",
        ([no for no, _ in ends], [at for _, at in ends]),
    )


def remove_entitlements(connection: PgConnection, numbers: Sequence[int]) -> None:
    """Forget entitlements that will never hold."""
    connection.execute("DELETE FROM entitlements WHERE no = ANY(%s)", (list(numbers),))


def load_of_subscription(connection: PgConnection, *, subscription_id: str) -> list[Row]:
    """All entitlements of a subscription with the terms of their periods."""
    return connection.execute(TERMS + " WHERE e.subscription_id = %s ORDER BY e.no", (subscription_id,)).fetchall()


def load_numbered(connection: PgConnection, *, no: int) -> Row:
    """One entitlement by its number."""
    row = connection.execute(TERMS + " WHERE e.no = %s", (no,)).fetchone()
    assert row is not None
    return row


def load_of_customers(
    connection: PgConnection, *, tenant_id: str, customer_ids: Sequence[str], feature_ids: Sequence[str] | None
) -> list[Row]:
    """All entitlements, past and future ones too, of the customers to the features (None: to any)."""
    return connection.execute(
        TERMS + " WHERE e.tenant_id = %(tenant_id)s"
        " AND e.customer_id IN (SELECT unnest(%(customer_ids)b::text[]))"  # each by the index: of ANY all rows are read
        " AND (%(feature_ids)s::text[] IS NULL OR e.feature_id = ANY(%(feature_ids)s)) ORDER BY e.no",
        {
            "tenant_id": tenant_id,
            "customer_ids": list(customer_ids),
            "feature_ids": None if feature_ids is None else list(feature_ids),
        },
    ).fetchall()


def load_customers(connection: PgConnection, *, tenant_id: str, references: Sequence[str]) -> dict[str, Row]:
    """Id and external_id of customers by each reference; an id wins over an equal external_id."""
    rows = connection.execute(
        "SELECT c.id, c.external_id FROM unnest(%(references)b::text[]) AS wanted (name)"
        " JOIN customers c ON c.id = wanted.name WHERE c.tenant_id = %(tenant_id)s"
        " UNION ALL SELECT c.id, c.external_id FROM unnest(%(references)b::text[]) AS wanted (name)"
        " JOIN customers c ON c.tenant_id = %(tenant_id)s AND c.external_id = wanted.name",
        {"tenant_id": tenant_id, "references": list(references)},
    ).fetchall()
    return {row["external_id"]: row for row in rows} | {row["id"]: row for row in rows}
