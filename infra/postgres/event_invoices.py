"""Which invoice an event's usage stands on."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from infra.postgres.pool import PgConnection


class UsagePoint(NamedTuple):
    """Usage of one customer on one meter at an instant, received at another."""

    customer_no: int
    meter_no: int
    occurred_at: datetime
    received_at: datetime


def load_invoices(connection: PgConnection, *, tenant_id: str, points: Sequence[UsagePoint]) -> dict[UsagePoint, str]:
    """The first invoice that billed each point: a line of its meter and period, computed after it was received."""
    rows = connection.execute(
        "SELECT point.place, min(invoices.id) AS invoice_id"
        " FROM unnest(%s::bigint[], %s::integer[], %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY"
        "  AS point (customer_no, meter_no, occurred_at, received_at, place)"
        " JOIN customers ON customers.no = point.customer_no AND customers.tenant_id = %s"
        " JOIN invoices ON invoices.customer_id = customers.id AND invoices.status <> 'void'"
        "  AND invoices.as_of > point.received_at"
        " JOIN invoice_lines line ON line.invoice_id = invoices.id AND line.meter_no = point.meter_no"
        "  AND line.period_start <= point.occurred_at AND point.occurred_at < line.period_end"
        " GROUP BY point.place",
        (
            [point.customer_no for point in points],
            [point.meter_no for point in points],
            [point.occurred_at for point in points],
            [point.received_at for point in points],
            tenant_id,
        ),
    )
    return {points[row["place"] - 1]: row["invoice_id"] for row in rows}
