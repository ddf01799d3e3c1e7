"""What was billed for usage, read back from the lines of invoices. What a void invoice was for is not billed again."""

from collections.abc import Sequence

from infra.postgres.pool import PgConnection
from schemas.instants import Period


def load_usage_billed(connection: PgConnection, wanted: Sequence[tuple[str, Period]]) -> dict[str, int]:
    """By subscription, what its invoices have billed for usage within a period, in minor units; one period each."""
    if not wanted:
        return {}
    rows = connection.execute(
        "SELECT i.subscription_id, sum(l.amount_minor) AS amount_minor"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) AS wanted (id, since, until)"
        " JOIN invoices i ON i.subscription_id = wanted.id AND i.period_end > wanted.since"
        " JOIN invoice_lines l ON l.invoice_id = i.id AND l.meter_no IS NOT NULL"
        " AND l.period_start >= wanted.since AND l.period_end <= wanted.until GROUP BY i.subscription_id",
        (
            [subscription_id for subscription_id, _ in wanted],
            [period.start for _, period in wanted],
            [period.end for _, period in wanted],
        ),
    )
    return {row["subscription_id"]: int(row["amount_minor"]) for row in rows}
