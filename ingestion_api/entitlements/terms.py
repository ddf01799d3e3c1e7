"""Entitlements as they are stored: written as a subscription's phases have it, told to flows, their periods."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.postgres import catalogue, entitlements
from infra.postgres.entitlement_entries import change_of
from infra.postgres.pool import PgConnection, Row
from pricing.entitlement_terms import PERIOD_TERMS, period_of
from pricing.entitlements import EntitlementPeriod
from pricing.grants import Granted

#: Periods that are kept, so that one is reckoned once and not for every check; when there are more it begins anew.
KNOWN_PERIODS = 200_000

_periods: dict[tuple[Any, ...], EntitlementPeriod] = {}  # by terms, the one that was asked for last


def period_at(row: Row, instant: datetime) -> EntitlementPeriod:
    """The period of a metered entitlement that contains an instant not before its start. For any threads."""
    terms = tuple(row[name] for name in PERIOD_TERMS)
    known = _periods.get(terms)
    if known is not None and known.start <= instant and (known.end is None or instant < known.end):
        return known
    if len(_periods) >= KNOWN_PERIODS:
        _periods.clear()
    period = _periods[terms] = period_of(row, instant)
    return period


def write_entitlements(
    connection: PgConnection,
    granted: Sequence[Granted],
    *,
    tenant_id: str,
    tenant_no: int,
    subscription_id: str,
    customer_id: str,
) -> None:
    """Let the stored entitlements of a subscription be these, and tell flows of what they count from now on.

    A stored one that is granted still keeps its row and with it its counter. Call it last in the transaction: see
    `catalogue.append_changes`.
    """
    stored = {_key(row): row for row in entitlements.load_of_subscription(connection, subscription_id=subscription_id)}
    kept: set[int] = set()
    new: list[dict[str, Any]] = []
    ends: list[tuple[int, datetime | None]] = []
    for each in granted:
        row = stored.get((each.grant.feature_id, each.grant.source, each.effective_at))
        if row is None or not _is_same(row, each):
            new.append(_to_terms(each))
            continue
        kept.add(row["no"])
        if row["ends_at"] != each.ends_at:
            ends.append((row["no"], each.ends_at))
    gone = [row for row in stored.values() if row["no"] not in kept]
    entitlements.remove_entitlements(connection, [row["no"] for row in gone])
    entitlements.end_entitlements(connection, ends)
    entitlements.insert_entitlements(
        connection, tenant_id=tenant_id, subscription_id=subscription_id, customer_id=customer_id, terms=new
    )
    present = entitlements.load_of_subscription(connection, subscription_id=subscription_id)
    _append_entries(connection, present, gone, tenant_no=tenant_no)


def _key(row: Row) -> tuple[str, str, datetime]:
    return row["feature_id"], row["source"], row["effective_at"]


def _is_same(row: Row, granted: Granted) -> bool:
    grant = granted.grant
    limit = None if grant.limit is None else Decimal(grant.limit)
    rollover_max = None if grant.rollover_max is None else Decimal(grant.rollover_max)
    present = (row["starts_at"], row["limit_quantity"], row["rollover_max"], row["reset"], row["enforcement"])
    period = (row["value"], row["billing_period"], row["billing_period_count"])
    return present == (granted.starts_at, limit, rollover_max, grant.reset, grant.enforcement) and period == (
        grant.value,
        grant.billing_period,
        grant.billing_period_count,
    )


def _to_terms(granted: Granted) -> dict[str, Any]:
    grant = granted.grant
    terms = {
        "feature_id": grant.feature_id,
        "source": grant.source,
        "limit_quantity": grant.limit,
        "rollover_max": grant.rollover_max,
        "reset": grant.reset,
        "enforcement": grant.enforcement,
        "billing_period": grant.billing_period,
        "billing_period_count": grant.billing_period_count,
        "starts_at": granted.starts_at,
        "effective_at": granted.effective_at,
        "ends_at": granted.ends_at,
    }
    return terms if grant.value is None else {**terms, "value": grant.value}


def _append_entries(connection: PgConnection, present: Sequence[Row], gone: Sequence[Row], *, tenant_no: int) -> None:
    changes = [change_of(row, tenant_no=tenant_no) for row in present if row["meter_no"] is not None]
    changes += [change_of(row, tenant_no=tenant_no, is_gone=True) for row in gone if row["meter_no"] is not None]
    if changes:
        catalogue.append_changes(connection, changes)
