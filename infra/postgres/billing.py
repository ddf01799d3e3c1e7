"""What is due, and what billing must know of it. PostgreSQL is the truth about both; nothing here computes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

import msgspec

from infra.postgres import outbox
from infra.postgres.due import Due, Moment, page_parameters
from infra.postgres.pool import PgConnection, Row
from schemas.billing import BilledSubscription, Phase
from schemas.catalogue import MeterEntry
from schemas.topics import SystemEvent

_SUBSCRIPTION_SQL = """
SELECT s.id, s.xmin::text AS row_version, s.tenant_id, t.no AS tenant_no, s.customer_id, c.no AS customer_no,
       c.external_id, s.plan_id, s.plan_version, s.status, s.currency, s.timezone, s.start_at, s.billing_anchor,
       s.alignment, s.quantities, s.price_overrides, s.discounts, s.commitment, s.end_at, s.cancel_at,
       s.cancel_proration, s.billed_until, s.next_bill_at, s.trial_end_at, s.trial_end_behavior, s.billed_seqs,
       s.invoice_threshold, s.test_clock_id, s.late_check_at, payer.id AS payer_id,
       payer.external_id AS payer_external_id, payer.has_payment_method,
       coalesce(payer.invoicing, t.settings ->> 'invoicing', '') = 'consolidated' AS is_consolidated,
       CASE WHEN payer.tax_rate_ids = '{}' THEN '[]' ELSE (
         SELECT coalesce(jsonb_agg(jsonb_build_object('key', r.key, 'name', r.name, 'percent', r.percent::text,
                'inclusive', r.inclusive) ORDER BY array_position(payer.tax_rate_ids, r.id)), '[]')
         FROM tax_rates r WHERE r.id = ANY (payer.tax_rate_ids)) END AS taxes
FROM subscriptions s JOIN customers c ON c.id = s.customer_id JOIN tenants t ON t.id = s.tenant_id
JOIN customers payer ON payer.id = coalesce(c.parent_id, c.id)
"""


#: Whose bills: of everybody without a test clock, or of one clock. Each has an index of its own.
_WITHOUT_CLOCK: LiteralString = "test_clock_id IS NULL"
_OF_CLOCK: LiteralString = "test_clock_id = %(clock_id)s"


def load_due(
    connection: PgConnection, *, moment: Moment, usage_until: datetime, after: Due | None, limit: int
) -> list[Due]:
    """Up to `limit` due subscriptions in the order of (next_bill_at, id), from beyond `after` on.

    Parked ones are passed by, and so are those whose statement has usage of a period that ends after `usage_until`
    (the watermark less the grace). A subscription that was never billed opens with advance lines: it never waits.
    """
    whose = _WITHOUT_CLOCK if moment.clock_id is None else _OF_CLOCK
    rows = connection.execute(
        "SELECT next_bill_at, id FROM subscriptions"  # noqa: S608 - texts of this file
        " WHERE next_bill_at <= %(now)s AND parked_reason IS NULL AND "
        + whose
        + " AND (billed_until IS NULL OR NOT usage_due OR next_bill_at <= %(usage_until)s)"
        " AND (%(after_id)s::text IS NULL OR (next_bill_at, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY next_bill_at, id LIMIT %(limit)s",
        {**page_parameters(moment, after, limit), "usage_until": usage_until},
    )
    return [Due(row["next_bill_at"], row["id"]) for row in rows]


def earliest_bills(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first subscription of its customers is due. Parked ones are passed by."""
    rows = connection.execute(
        "SELECT test_clock_id, min(next_bill_at) AS at FROM subscriptions"
        " WHERE test_clock_id = ANY(%s) AND next_bill_at IS NOT NULL AND parked_reason IS NULL GROUP BY test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


def load_subscriptions(connection: PgConnection, subscription_ids: Sequence[str]) -> list[BilledSubscription]:
    """The subscriptions that exist of these, in the order of their ids. Those of one plan version share its prices."""
    rows = connection.execute(
        _SUBSCRIPTION_SQL + " WHERE s.id = ANY(%s) ORDER BY s.id", (list(subscription_ids),)
    ).fetchall()
    return _with_prices(connection, rows)


def load_due_together(
    connection: PgConnection, payer_ids: Sequence[str], *, now: datetime, limit: int
) -> dict[tuple[str, str], list[str]]:
    """By payer and currency, the subscriptions that are due first of all that it pays for: those of one instant, by
    their ids, `limit` at most. Parked ones are passed by."""
    rows = connection.execute(
        "SELECT payer_id, currency, array_agg(id ORDER BY id) AS ids FROM"
        " (SELECT s.id, s.currency, coalesce(c.parent_id, c.id) AS payer_id,"
        "   rank() OVER (PARTITION BY coalesce(c.parent_id, c.id), s.currency ORDER BY s.next_bill_at) AS instant,"
        "   row_number() OVER (PARTITION BY coalesce(c.parent_id, c.id), s.currency ORDER BY s.next_bill_at, s.id)"
        "   AS place"
        "  FROM customers c JOIN subscriptions s ON s.customer_id = c.id"
        "  WHERE (c.parent_id IS NULL AND c.id = ANY(%(payers)s) OR c.parent_id = ANY(%(payers)s))"
        "   AND s.next_bill_at <= %(now)s AND s.parked_reason IS NULL) AS due"
        " WHERE instant = 1 AND place <= %(limit)s GROUP BY payer_id, currency ORDER BY payer_id, currency",
        {"payers": list(payer_ids), "now": now, "limit": limit},
    )
    return {(row["payer_id"], row["currency"]): row["ids"] for row in rows}


def load_to_come(connection: PgConnection, payer_id: str, *, limit: int) -> list[str]:
    """The first subscriptions to be invoiced of those that a customer pays for, by (next_bill_at, id)."""
    rows = connection.execute(
        "SELECT s.id FROM customers c JOIN subscriptions s ON s.customer_id = c.id"
        " WHERE (c.parent_id IS NULL AND c.id = %(payer)s OR c.parent_id = %(payer)s) AND s.next_bill_at IS NOT NULL"
        " AND s.parked_reason IS NULL ORDER BY s.next_bill_at, s.id LIMIT %(limit)s",
        {"payer": payer_id, "limit": limit},
    )
    return [row["id"] for row in rows]


def load_subscription(connection: PgConnection, *, tenant_id: str, subscription_id: str) -> BilledSubscription | None:
    """One subscription of the tenant."""
    rows = connection.execute(
        _SUBSCRIPTION_SQL + " WHERE s.tenant_id = %s AND s.id = %s", (tenant_id, subscription_id)
    ).fetchall()
    return next(iter(_with_prices(connection, rows)), None)


def _with_prices(connection: PgConnection, rows: list[Row]) -> list[BilledSubscription]:
    phases = load_phases(connection, [row["id"] for row in rows])
    return [BilledSubscription(**row, prices=phases[row["id"]][0].prices, phases=phases[row["id"]]) for row in rows]


def load_phases(connection: PgConnection, subscription_ids: Sequence[str]) -> dict[str, tuple[Phase, ...]]:
    """The phases of each subscription by their start. Those of one plan version share its prices."""
    rows = connection.execute(
        "SELECT f.subscription_id, f.no, f.starts_at, f.plan_id, f.plan_version, p.key AS plan_key, f.quantities,"
        " f.price_overrides, f.entitlement_overrides, f.addons, f.commitment, f.is_paused, f.keeps_entitlements,"
        " f.prorate, f.invoice_now, f.is_late"
        " FROM subscription_phases f JOIN plans p ON p.id = f.plan_id WHERE f.subscription_id = ANY(%s)"
        " ORDER BY f.subscription_id, f.starts_at, f.no",
        (list(subscription_ids),),
    ).fetchall()
    prices = _load_prices(connection, rows)
    phases: dict[str, list[Phase]] = {}
    for row in rows:
        phases.setdefault(row.pop("subscription_id"), []).append(
            Phase(
                **row,
                prices=prices[row["plan_id"], row["plan_version"]],
                addon_prices=[prices[addon["addon_id"], addon["version"]] for addon in row["addons"]],
            )
        )
    return {subscription_id: tuple(own) for subscription_id, own in phases.items()}


def _load_prices(connection: PgConnection, phases: Sequence[Row]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The prices of all versions of plans and add-ons that phases name."""
    versions = {(row["plan_id"], row["plan_version"]) for row in phases}
    versions |= {(addon["addon_id"], addon["version"]) for row in phases for addon in row["addons"]}
    plans = connection.execute(
        "SELECT plan_id, version, prices FROM plan_versions JOIN unnest(%s::text[], %s::int[]) AS wanted (id, number)"
        " ON plan_id = wanted.id AND version = wanted.number",
        ([plan_id for plan_id, _ in versions], [version for _, version in versions]),
    )
    return {(plan["plan_id"], plan["version"]): plan["prices"] for plan in plans}


def load_meters(connection: PgConnection, tenant_ids: Sequence[str]) -> dict[tuple[str, str], MeterEntry]:
    """The meters of the tenants by (tenant_id, key), and by (tenant_id, id) too: a price may name either."""
    rows = connection.execute(
        "SELECT tenant_id, id, key, no AS meter_no, revision, event_type, aggregation, value, filters, group_by"
        " FROM meters WHERE tenant_id = ANY(%s)",
        (sorted(set(tenant_ids)),),
    )
    meters: dict[tuple[str, str], MeterEntry] = {}
    for row in rows:
        entry = msgspec.convert(row, MeterEntry)
        meters[row["tenant_id"], row["id"]] = entry
        meters[row["tenant_id"], row["key"]] = entry
    return meters


def load_stored_seqs(connection: PgConnection) -> dict[int, int]:
    """By shard, the last sequence number up to which every intent is committed.

    Rows of ClickHouse with a `seq` beyond it may be there in part: raw events before windows, or the other way round.
    """
    rows = connection.execute(
        "SELECT s.shard, coalesce(min(i.seq), s.next_seq) - 1 AS seq FROM shards s"
        " LEFT JOIN intents i ON i.shard = s.shard AND i.state = 'pending' GROUP BY s.shard, s.next_seq"
    )
    return {row["shard"]: row["seq"] for row in rows}


def park(connection: PgConnection, subscription: BilledSubscription, *, reason: str, now: datetime) -> bool:
    """Take one subscription out of the run, saying why; false if it has changed since it was read.

    The sweep passes it by until `parked_reason` is null again.
    """
    changed = connection.execute(
        "UPDATE subscriptions SET parked_reason = %s WHERE id = %s AND xmin::text = %s",
        (reason, subscription.id, subscription.row_version),
    ).rowcount
    if changed:
        outbox.append(
            connection,
            tenant_id=subscription.tenant_id,
            event=SystemEvent.SUBSCRIPTION_PARKED,
            object_id=subscription.id,
            data={"id": subscription.id, "customer": subscription.external_id, "reason": reason},
            now=now,
        )
    return changed == 1


def count_parked(connection: PgConnection) -> int:
    """How many subscriptions, of all tenants, the sweep passes by."""
    row = connection.execute("SELECT count(*) AS parked FROM subscriptions WHERE parked_reason IS NOT NULL").fetchone()
    assert row is not None
    return row["parked"]


def unpark(connection: PgConnection, *, subscription_id: str) -> bool:
    """Let the next sweep find a parked subscription again; false if it is not parked."""
    changed = connection.execute(
        "UPDATE subscriptions SET parked_reason = NULL WHERE id = %s AND parked_reason IS NOT NULL", (subscription_id,)
    )
    return changed.rowcount == 1
