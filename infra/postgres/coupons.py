"""Coupons, and which subscriptions have redeemed them. `redemptions` never passes `max_redemptions`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row


def insert_coupon(
    connection: PgConnection,
    *,
    coupon_id: str,
    tenant_id: str,
    key: str,
    name: str,
    code: str | None,
    terms: dict[str, Any],
    max_redemptions: int | None,
    expires_at: datetime | None,
    metadata: dict[str, str],
    now: datetime,
) -> Row | None:
    """Store a new coupon; None when the tenant has this key or code already.

    `terms`: percent, or amount and currency; duration, and periods of a repeating one. The others are None.
    """
    return connection.execute(
        "INSERT INTO coupons (id, tenant_id, key, name, code, percent, amount, currency, duration, periods,"
        " max_redemptions, expires_at, metadata, created_at)"
        " VALUES (%(id)s, %(tenant_id)s, %(key)s, %(name)s, %(code)s, %(percent)s::numeric, %(amount)s::numeric,"
        " %(currency)s, %(duration)s, %(periods)s, %(max_redemptions)s, %(expires_at)s, %(metadata)s, %(now)s)"
        " ON CONFLICT DO NOTHING RETURNING *",
        {
            **terms,
            "id": coupon_id,
            "tenant_id": tenant_id,
            "key": key,
            "name": name,
            "code": code,
            "max_redemptions": max_redemptions,
            "expires_at": expires_at,
            "metadata": jsonb(metadata),
            "now": now,
        },
    ).fetchone()


def load_coupon(connection: PgConnection, *, tenant_id: str, reference: str, lock: bool = False) -> Row | None:
    """The coupon with this id, or else with this key, or else with this code in any case of its letters.

    With `lock` nobody redeems or changes it before we commit.
    """
    query = (
        "SELECT * FROM coupons WHERE tenant_id = %(tenant_id)s AND (id = %(reference)s OR key = %(reference)s"
        " OR upper(code) = upper(%(reference)s)) ORDER BY id <> %(reference)s, key <> %(reference)s LIMIT 1"
    )
    return connection.execute(
        query + " FOR UPDATE" if lock else query, {"tenant_id": tenant_id, "reference": reference}
    ).fetchone()


def list_coupons(
    connection: PgConnection, *, tenant_id: str, archived: bool, before_id: str | None, limit: int
) -> list[Row]:
    """The tenant's coupons, newest first."""
    return connection.execute(
        "SELECT * FROM coupons WHERE tenant_id = %(tenant_id)s AND (%(archived)s OR archived_at IS NULL)"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "archived": archived, "before_id": before_id, "limit": limit},
    ).fetchall()


def update_coupon(
    connection: PgConnection, *, coupon_id: str, name: str, archived_at: datetime | None, metadata: dict[str, str]
) -> Row:
    """Write the whole of what may change; the caller has the row locked."""
    row = connection.execute(
        "UPDATE coupons SET name = %s, archived_at = %s, metadata = %s WHERE id = %s RETURNING *",
        (name, archived_at, jsonb(metadata), coupon_id),
    ).fetchone()
    assert row is not None
    return row


def add_redemption(
    connection: PgConnection,
    *,
    coupon_id: str,
    subscription_id: str | None = None,
    invoice_id: str | None = None,
    now: datetime,
) -> bool:
    """Count one redemption, by a subscription or by a one-off invoice, of a coupon that the caller has locked and found
    to have one left; false when this one has redeemed it before."""
    added = connection.execute(
        "INSERT INTO coupon_redemptions (coupon_id, subscription_id, invoice_id, redeemed_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (coupon_id, subscription_id, invoice_id, now),
    ).rowcount
    if added:
        connection.execute("UPDATE coupons SET redemptions = redemptions + 1 WHERE id = %s", (coupon_id,))
    return added == 1


def drop_redemptions(connection: PgConnection, *, invoice_id: str, coupon_ids: Sequence[str]) -> None:
    """Give back what a draft that is locked has redeemed of these coupons."""
    connection.execute(
        "WITH dropped AS (DELETE FROM coupon_redemptions WHERE invoice_id = %s AND coupon_id = ANY(%s)"
        " RETURNING coupon_id) UPDATE coupons SET redemptions = redemptions - 1"
        " WHERE id IN (SELECT coupon_id FROM dropped)",
        (invoice_id, list(coupon_ids)),
    )
