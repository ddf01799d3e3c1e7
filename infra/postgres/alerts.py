"""Alerts, and what they have told. A crossing and the event that tells of it are one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import LiteralString

from infra.crash_points import crash_point
from infra.postgres.invoice_events import copy_events
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.ids import Prefix, new_id
from schemas.instants import format_instant
from schemas.money import format_decimal
from schemas.topics import SystemEvent

_ALERTS: LiteralString = (
    "SELECT a.*, t.no AS tenant_no, m.key AS meter, m.no AS meter_no, f.key AS feature, c.external_id AS customer,"
    " c.no AS customer_no FROM alerts a JOIN tenants t ON t.id = a.tenant_id LEFT JOIN meters m ON m.id = a.meter_id"
    " LEFT JOIN features f ON f.id = a.feature_id LEFT JOIN customers c ON c.id = a.customer_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Whose usage, balance or cost has come to the threshold, and in which period. `limit`: that of a feature."""

    customer_id: str
    customer: str
    period_start: datetime
    period_end: datetime | None
    value: Decimal
    limit: Decimal | None = None


def insert_alert(connection: PgConnection, row: Row) -> None:
    """Store a new alert; `row` has every column but those that change later."""
    connection.execute(
        "INSERT INTO alerts (id, tenant_id, meter_id, feature_id, wallet_id, subscription_id, customer_id, amount,"
        " percent, period, metadata, check_at, judged_at, created_at) VALUES (%(id)s, %(tenant_id)s, %(meter_id)s,"
        " %(feature_id)s, %(wallet_id)s, %(subscription_id)s, %(customer_id)s, %(amount)s, %(percent)s, %(period)s,"
        " %(metadata)s, %(created_at)s, %(created_at)s, %(created_at)s)",
        {**row, "metadata": jsonb(row["metadata"])},
    )


def count_alerts(connection: PgConnection, *, tenant_id: str) -> int:
    """How many are in use. Holds the tenant's row, so that two who add one at once count one another's."""
    connection.execute("SELECT 1 FROM tenants WHERE id = %s FOR NO KEY UPDATE", (tenant_id,))
    row = connection.execute(
        "SELECT count(*) AS number FROM alerts WHERE tenant_id = %s AND archived_at IS NULL", (tenant_id,)
    ).fetchone()
    assert row is not None
    return row["number"]


def load_alert(connection: PgConnection, *, tenant_id: str, alert_id: str) -> Row | None:
    """One alert of the tenant, in use or not, with the names of what it is about."""
    return connection.execute(_ALERTS + " WHERE a.tenant_id = %s AND a.id = %s", (tenant_id, alert_id)).fetchone()


def list_alerts(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """Those in use, newest first."""
    return connection.execute(
        _ALERTS + " WHERE a.tenant_id = %(tenant_id)s AND a.archived_at IS NULL"
        " AND (%(before_id)s::text IS NULL OR a.id < %(before_id)s) ORDER BY a.id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def archive_alert(connection: PgConnection, *, alert_id: str, now: datetime) -> bool:
    """Tell nothing more; false if it told nothing any more already."""
    return bool(
        connection.execute(
            "UPDATE alerts SET archived_at = %s WHERE id = %s AND archived_at IS NULL", (now, alert_id)
        ).rowcount
    )


def take_alerts(connection: PgConnection, *, now: datetime, every: timedelta, limit: int) -> list[Row]:
    """Up to `limit` alerts that are to be looked at, which nobody else takes until `every` has passed. Whoever dies
    meanwhile leaves them to the next look."""
    rows = connection.execute(
        "UPDATE alerts SET check_at = %(until)s WHERE id IN (SELECT id FROM alerts WHERE archived_at IS NULL"
        " AND check_at <= %(now)s ORDER BY check_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING id",
        {"until": now + every, "now": now, "limit": limit},
    ).fetchall()
    return connection.execute(
        _ALERTS + " WHERE a.id = ANY(%s) ORDER BY a.id", ([row["id"] for row in rows],)
    ).fetchall()


def mark_judged(connection: PgConnection, *, alert_id: str, now: datetime) -> None:
    """All that had crossed by `now` is saved."""
    connection.execute("UPDATE alerts SET judged_at = greatest(judged_at, %s) WHERE id = %s", (now, alert_id))


def save_crossings(connection: PgConnection, alert: Row, found: Sequence[Crossing], *, now: datetime) -> int:
    """Tell of those of one alert that were not told of in their period, unless it has been archived; how many."""
    if not _hold(connection, alert["id"]):
        return 0
    own = {(each.customer_id, each.period_start): each for each in found}
    rows = connection.execute(
        "INSERT INTO alert_crossings (alert_id, customer_id, period_start, value, triggered_at)"
        " SELECT %s, customer_id, period_start, value, %s FROM unnest(%s::text[], %s::timestamptz[], %s::numeric[])"
        " AS found (customer_id, period_start, value) ORDER BY customer_id, period_start"
        " ON CONFLICT DO NOTHING RETURNING customer_id, period_start",
        (
            alert["id"],
            now,
            [each.customer_id for each in own.values()],
            [each.period_start for each in own.values()],
            [each.value for each in own.values()],
        ),
    )
    told = [own[row["customer_id"], row["period_start"]] for row in rows]
    copy_events(connection, [_event(alert, each, now) for each in told])
    crash_point("alerts.before_commit")
    return len(told)


def save_balance(connection: PgConnection, alert: Row, crossing: Crossing, *, has_crossed: bool, now: datetime) -> int:
    """What of a wallet's alert is to be told: that its balance has come down, once until it has been above again."""
    armed = connection.execute(
        "UPDATE alerts SET is_armed = %(armed)s WHERE id = %(id)s AND is_armed <> %(armed)s RETURNING id",
        {"id": alert["id"], "armed": not has_crossed},
    ).fetchone()
    return save_crossings(connection, alert, [crossing], now=now) if armed and has_crossed else 0


def load_places(
    connection: PgConnection, *, tenant_id: str, customer_id: str | None, after: Row | None, limit: int
) -> list[Row]:
    """A page, beyond the place `after`, of the time zones and test clocks of the tenant's customers, or of one: each
    pair once, in order."""
    return connection.execute(
        "SELECT DISTINCT timezone, test_clock_id, coalesce(test_clock_id, '') AS clock FROM customers"
        " WHERE tenant_id = %(tenant_id)s AND (%(customer_id)s::text IS NULL OR id = %(customer_id)s)"
        " AND archived_at IS NULL AND (%(zone)s::text IS NULL"
        " OR (timezone, coalesce(test_clock_id, '')) > (%(zone)s, %(clock)s))"
        " ORDER BY timezone, clock LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "zone": after and after["timezone"],
            "clock": after and after["clock"],
            "limit": limit,
        },
    ).fetchall()


def load_at_places(
    connection: PgConnection, customer_nos: Sequence[int], places: Sequence[tuple[str, str | None]]
) -> list[Row]:
    """Those of the customers that are in one of these time zones, by one of these clocks: no, id, external_id."""
    return connection.execute(
        "SELECT no, id, external_id FROM customers JOIN unnest(%s::text[], %s::text[]) AS place (zone, clock)"
        " ON timezone = zone AND test_clock_id IS NOT DISTINCT FROM clock"
        " WHERE no = ANY(%s) AND archived_at IS NULL ORDER BY no",
        ([zone for zone, _ in places], [clock for _, clock in places], list(customer_nos)),
    ).fetchall()


def load_entitled(
    connection: PgConnection, *, feature_id: str, customer_id: str | None, after_id: str, limit: int
) -> list[str]:
    """A page of the customers who have, had or will have an entitlement to a feature, by their ids."""
    rows = connection.execute(
        "SELECT DISTINCT customer_id FROM entitlements WHERE feature_id = %(feature_id)s"
        " AND (%(customer_id)s::text IS NULL OR customer_id = %(customer_id)s) AND customer_id > %(after_id)s"
        " ORDER BY customer_id LIMIT %(limit)s",
        {"feature_id": feature_id, "customer_id": customer_id, "after_id": after_id, "limit": limit},
    )
    return [row["customer_id"] for row in rows]


def load_balance(connection: PgConnection, *, wallet_id: str) -> Row:
    """A wallet's balance, currency, customer (id and external_id) and test clock."""
    row = connection.execute(
        "SELECT w.granted_minor - w.overdraft_minor AS balance_minor, w.currency, w.customer_id, w.test_clock_id,"
        " c.external_id AS customer FROM wallets w JOIN customers c ON c.id = w.customer_id WHERE w.id = %s",
        (wallet_id,),
    ).fetchone()
    assert row is not None, "an alert names its wallet, and none is ever removed"
    return row


def _hold(connection: PgConnection, alert_id: str) -> bool:
    """Whether the alert is in use; it is not archived until the caller's transaction ends."""
    row = connection.execute(
        "SELECT 1 FROM alerts WHERE id = %s AND archived_at IS NULL FOR SHARE", (alert_id,)
    ).fetchone()
    return row is not None


def _event(alert: Row, crossing: Crossing, now: datetime) -> tuple[object, ...]:
    end, limit = crossing.period_end, crossing.limit
    data = {
        "id": alert["id"],
        "meter": alert["meter"],
        "feature": alert["feature"],
        "wallet": alert["wallet_id"],
        "subscription": alert["subscription_id"],
        "customer": crossing.customer,
        "threshold": threshold_of(alert),
        "value": format_decimal(crossing.value),
        "limit": None if limit is None else format_decimal(limit),
        "period": {"start": format_instant(crossing.period_start), "end": None if end is None else format_instant(end)},
        "metadata": alert["metadata"],
    }
    return (new_id(Prefix.SYSTEM_EVENT), alert["tenant_id"], SystemEvent.ALERT_TRIGGERED, alert["id"], jsonb(data), now)


def threshold_of(alert: Row) -> dict[str, str]:
    """As it was given: an amount or a percentage."""
    name = "amount" if alert["percent"] is None else "percent"
    return {name: format_decimal(alert[name])}
