"""Plans, add-ons and their versions. A version is never edited; a new one stands beside it.

An add-on is of the same make as a plan; keys of the two kinds are apart.
"""

from datetime import datetime
from typing import Any, Literal

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row

Kind = Literal["plan", "addon"]


def insert_plan(
    connection: PgConnection,
    *,
    plan_id: str,
    tenant_id: str,
    key: str,
    name: str,
    currency: str,
    metadata: dict[str, str],
    now: datetime,
    kind: Kind = "plan",
) -> Row | None:
    """Store a new plan or add-on, still without a version; None when the tenant has one of this kind and key."""
    return connection.execute(
        "INSERT INTO plans (id, tenant_id, kind, key, name, currency, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, kind, key) DO NOTHING RETURNING *",
        (plan_id, tenant_id, kind, key, name, currency, jsonb(metadata), now),
    ).fetchone()


def lock_plan(connection: PgConnection, *, tenant_id: str, reference: str, kind: Kind = "plan") -> Row | None:
    """The plan with this id, or else with this key, locked: versions are numbered one after another."""
    return connection.execute(
        "SELECT * FROM plans WHERE tenant_id = %(tenant_id)s AND kind = %(kind)s"
        " AND (id = %(reference)s OR key = %(reference)s) ORDER BY id <> %(reference)s LIMIT 1 FOR UPDATE",
        {"tenant_id": tenant_id, "kind": kind, "reference": reference},
    ).fetchone()


def insert_version(
    connection: PgConnection,
    *,
    plan_id: str,
    prices: list[dict[str, Any]],
    entitlements: list[dict[str, Any]],
    now: datetime,
) -> Row:
    """Store the next version of a plan that the caller has made or locked."""
    row = connection.execute(
        "INSERT INTO plan_versions (plan_id, version, prices, entitlements, created_at)"
        " SELECT %(plan_id)s, coalesce(max(version), 0) + 1, %(prices)s, %(entitlements)s, %(now)s"
        " FROM plan_versions WHERE plan_id = %(plan_id)s RETURNING *",
        {"plan_id": plan_id, "prices": jsonb(prices), "entitlements": jsonb(entitlements), "now": now},
    ).fetchone()
    assert row is not None
    return row


_WITH_VERSION = (
    "SELECT plans.id, plans.kind, plans.key, plans.name, plans.currency, plans.metadata, plans.created_at,"
    " plan_versions.version, plan_versions.prices, plan_versions.entitlements,"
    " plan_versions.created_at AS version_created_at"
    " FROM plans JOIN plan_versions ON plan_id = plans.id"
)


def load_plan(
    connection: PgConnection, *, tenant_id: str, reference: str, version: int | None, kind: Kind = "plan"
) -> Row | None:
    """The plan with this id, or else with this key, at a version (None: the newest)."""
    return connection.execute(
        _WITH_VERSION + " WHERE tenant_id = %(tenant_id)s AND kind = %(kind)s"
        " AND (plans.id = %(reference)s OR plans.key = %(reference)s)"
        " AND (%(version)s::bigint IS NULL OR version = %(version)s)"
        " ORDER BY plans.id <> %(reference)s, version DESC LIMIT 1",
        {"tenant_id": tenant_id, "kind": kind, "reference": reference, "version": version},
    ).fetchone()


def list_plans(
    connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int, kind: Kind = "plan"
) -> list[Row]:
    """The tenant's plans or add-ons, newest first, each at its newest version."""
    return connection.execute(
        _WITH_VERSION + " WHERE tenant_id = %(tenant_id)s AND kind = %(kind)s"  # noqa: S608 - two constants
        " AND (%(before_id)s::text IS NULL OR plans.id < %(before_id)s)"
        " AND version = (SELECT max(version) FROM plan_versions AS newest WHERE newest.plan_id = plans.id)"
        " ORDER BY plans.id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "kind": kind, "before_id": before_id, "limit": limit},
    ).fetchall()


def list_versions(connection: PgConnection, *, plan_id: str, below: int | None, limit: int) -> list[Row]:
    """The versions of a plan, newest first."""
    return connection.execute(
        _WITH_VERSION + " WHERE plans.id = %(plan_id)s AND (%(below)s::integer IS NULL OR version < %(below)s)"
        " ORDER BY version DESC LIMIT %(limit)s",
        {"plan_id": plan_id, "below": below, "limit": limit},
    ).fetchall()


def load_entitlements(connection: PgConnection, *, plan_id: str, version: int) -> list[dict[str, Any]]:
    """What a version of a plan or an add-on entitles to."""
    row = connection.execute(
        "SELECT entitlements FROM plan_versions WHERE plan_id = %s AND version = %s", (plan_id, version)
    ).fetchone()
    assert row is not None, "versions are never removed"
    return row["entitlements"]
