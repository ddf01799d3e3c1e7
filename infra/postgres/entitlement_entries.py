"""Entitlements as flows know them: entries of the catalogue, and an end that comes sooner than was thought."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres import catalogue, entitlements
from infra.postgres.pool import PgConnection, Row
from schemas.billing import BilledSubscription
from schemas.catalogue import EntitlementEntry, EntryKind


def to_entry(row: Row) -> EntitlementEntry:
    """The entry of a metered entitlement."""
    return EntitlementEntry(
        entitlement_no=row["no"],
        customer_no=row["customer_no"],
        meter_no=row["meter_no"],
        reset=row["reset"],
        timezone=row["timezone"],
        alignment=row["alignment"],
        billing_anchor=row["billing_anchor"],
        billing_period=row["billing_period"],
        billing_period_count=row["billing_period_count"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
    )


def change_of(row: Row, *, tenant_no: int, is_gone: bool = False) -> catalogue.Change:
    """What flows are told of a metered entitlement as it is now, or that it is gone."""
    return catalogue.Change(
        kind=EntryKind.ENTITLEMENT,
        tenant_no=tenant_no,
        key=str(row["no"]),
        entry=None if is_gone else to_entry(row),
    )


def cut_entitlements(connection: PgConnection, subscriptions: Sequence[BilledSubscription], *, at: datetime) -> None:
    """Let locked subscriptions entitle to nothing from an instant on, and tell flows. Call it last in the transaction:
    see `catalogue.append_changes`."""
    changes: list[catalogue.Change] = []
    for subscription in subscriptions:
        rows = entitlements.load_of_subscription(connection, subscription_id=subscription.id)
        gone = [row for row in rows if row["effective_at"] >= at]
        cut = [row for row in rows if row["effective_at"] < at and (row["ends_at"] is None or row["ends_at"] > at)]
        entitlements.remove_entitlements(connection, [row["no"] for row in gone])
        entitlements.end_entitlements(connection, [(row["no"], at) for row in cut])
        tenant_no = subscription.tenant_no
        changes += [
            change_of({**row, "ends_at": at}, tenant_no=tenant_no) for row in cut if row["meter_no"] is not None
        ]
        changes += [change_of(row, tenant_no=tenant_no, is_gone=True) for row in gone if row["meter_no"] is not None]
    if changes:
        catalogue.append_changes(connection, changes)
