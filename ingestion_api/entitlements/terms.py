"""A stored entitlement's period, and what flows must know of it to count. Both come from one row."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres import catalogue
from infra.postgres.pool import PgConnection, Row
from pricing.entitlements import EntitlementPeriod, Reset, entitlement_period
from pricing.periods import Alignment, BillingPeriod
from schemas.catalogue import EntitlementEntry, EntryKind


def period_at(row: Row, instant: datetime) -> EntitlementPeriod:
    """The period of a metered entitlement that contains an instant not before its start."""
    return entitlement_period(
        instant,
        Reset(row["reset"]),
        starts_at=row["starts_at"],
        timezone=row["timezone"],
        billing_anchor=row["billing_anchor"],
        billing_period=BillingPeriod(row["billing_period"]),
        billing_period_count=row["billing_period_count"],
        alignment=Alignment(row["alignment"]),
    )


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


def append_entries(connection: PgConnection, rows: Sequence[Row], *, tenant_no: int) -> None:
    """Tell flows of metered entitlements. Call it last in the transaction: see `catalogue.append_changes`."""
    metered = [row for row in rows if row["meter_no"] is not None]
    if metered:
        catalogue.append_changes(
            connection,
            [
                catalogue.Change(
                    kind=EntryKind.ENTITLEMENT, tenant_no=tenant_no, key=str(row["no"]), entry=to_entry(row)
                )
                for row in metered
            ],
        )
