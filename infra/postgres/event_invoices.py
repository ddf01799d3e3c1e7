"""Which invoice an event's usage stands on."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from infra.postgres.pool import PgConnection


class UsagePoint(NamedTuple):
    """Usage of one customer on one meter at an instant, in the windows since another (`counted_at`)."""

    customer_no: int
    meter_no: int
    occurred_at: datetime
    counted_at: datetime


class EventInvoice(NamedTuple):
    """An invoice that an event's usage stands on. A draft has no number, and was finalized at no time yet."""

    id: str
    number: str | None
    finalized_at: datetime | None


def load_invoices(
    connection: PgConnection, *, tenant_id: str, points: Sequence[UsagePoint]
) -> dict[UsagePoint, EventInvoice]:
    """The first invoice that billed each point: a line of its meter and period, computed after it was counted."""
    if not points:
        return {}
    rows = connection.execute(
        "SELECT DISTINCT ON (point.place) point.place, invoices.id, invoices.number, invoices.finalized_at"
        " FROM unnest(%s::bigint[], %s::integer[], %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY"
        "  AS point (customer_no, meter_no, occurred_at, counted_at, place)"
        " JOIN customers ON customers.no = point.customer_no AND customers.tenant_id = %s"
        " JOIN subscriptions ON subscriptions.customer_id = customers.id"  # its invoices may be another's to pay
        " JOIN invoice_statements statement ON statement.subscription_id = subscriptions.id"
        " JOIN invoices ON invoices.id = statement.invoice_id AND invoices.status <> 'void'"
        "  AND invoices.as_of > point.counted_at"
        " JOIN invoice_lines line ON line.invoice_id = invoices.id AND line.subscription_id = subscriptions.id"
        "  AND line.meter_no = point.meter_no"
        "  AND line.period_start <= point.occurred_at AND point.occurred_at < line.period_end"
        " ORDER BY point.place, invoices.id",
        (
            [point.customer_no for point in points],
            [point.meter_no for point in points],
            [point.occurred_at for point in points],
            [point.counted_at for point in points],
            tenant_id,
        ),
    )
    return {points[row["place"] - 1]: EventInvoice(row["id"], row["number"], row["finalized_at"]) for row in rows}
