"""What was billed for usage, read back from the lines of invoices. What a void invoice was for is not billed again."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from infra.postgres.pool import PgConnection, Row
from schemas.billing import BilledUsage
from schemas.instants import Period


def load_usage_billed(connection: PgConnection, wanted: Sequence[tuple[str, Period]]) -> dict[str, int]:
    """By subscription, what its invoices have billed for usage that ends within a period, one each, in minor units.

    A line that begins before the period, as a week does that begins in the month before, is billed within it.
    """
    if not wanted:
        return {}
    rows = connection.execute(
        "SELECT s.subscription_id, sum(l.amount_minor) AS amount_minor"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) AS wanted (id, since, until)"
        " JOIN invoice_statements s ON s.subscription_id = wanted.id AND s.period_end > wanted.since"
        " JOIN invoice_lines l ON l.invoice_id = s.invoice_id AND l.subscription_id = wanted.id"
        " AND l.meter_no IS NOT NULL"
        " AND l.period_end > wanted.since AND l.period_end <= wanted.until GROUP BY s.subscription_id",
        (
            [subscription_id for subscription_id, _ in wanted],
            [period.start for _, period in wanted],
            [period.end for _, period in wanted],
        ),
    )
    return {row["subscription_id"]: int(row["amount_minor"]) for row in rows}


def load_billed_since(
    connection: PgConnection, wanted: Mapping[tuple[str, int], datetime], *, until: Mapping[str, datetime]
) -> list[BilledUsage]:
    """What was billed of usage of (subscription_id, meter_no) in periods that end after an instant, and no later than
    `until`, by subscription: each price and start of a period once, oldest first, with all that a threshold has billed
    of it before the instant."""
    if not wanted:
        return []
    rows = connection.execute(
        "SELECT s.subscription_id, l.key, l.meter_no, l.period_start, max(l.period_end) AS period_end,"
        " (array_agg(l.price ORDER BY s.period_end DESC))[1] AS price, sum(coalesce(l.quantity, 0)) AS quantity,"
        " sum(l.amount_minor)::bigint AS amount_minor"
        " FROM unnest(%s::text[], %s::int[], %s::timestamptz[], %s::timestamptz[])"
        " AS wanted (id, meter_no, since, until)"
        " JOIN invoice_statements s ON s.subscription_id = wanted.id"
        " JOIN invoice_lines l ON l.invoice_id = s.invoice_id AND l.subscription_id = wanted.id"
        " AND l.meter_no = wanted.meter_no"
        " AND l.period_end <= wanted.until"
        " GROUP BY s.subscription_id, l.key, l.meter_no, l.period_start HAVING max(l.period_end) > min(wanted.since)"
        " ORDER BY s.subscription_id, l.period_start, l.key",
        (
            [subscription_id for subscription_id, _ in wanted],
            [meter_no for _, meter_no in wanted],
            list(wanted.values()),
            [until[subscription_id] for subscription_id, _ in wanted],
        ),
    ).fetchall()
    return [_billed(row) for row in rows]


def load_begun(connection: PgConnection, starts: Mapping[str, datetime]) -> dict[str, list[BilledUsage]]:
    """By subscription, what was billed of usage in periods that begin at its instant or later: each price and start of
    a period once."""
    if not starts:
        return {}
    rows = connection.execute(
        "SELECT s.subscription_id, l.key, l.meter_no, l.period_start, max(l.period_end) AS period_end,"
        " (array_agg(l.price ORDER BY s.period_end DESC))[1] AS price, sum(coalesce(l.quantity, 0)) AS quantity,"
        " sum(l.amount_minor)::bigint AS amount_minor"
        " FROM unnest(%s::text[], %s::timestamptz[]) AS wanted (id, since)"
        " JOIN invoice_statements s ON s.subscription_id = wanted.id AND s.period_end > wanted.since"
        " JOIN invoice_lines l ON l.invoice_id = s.invoice_id AND l.subscription_id = wanted.id"
        " AND l.meter_no IS NOT NULL AND l.period_start >= wanted.since"
        " GROUP BY s.subscription_id, l.key, l.meter_no, l.period_start ORDER BY s.subscription_id",
        (list(starts), list(starts.values())),
    ).fetchall()
    begun: dict[str, list[BilledUsage]] = {}
    for row in rows:
        begun.setdefault(row["subscription_id"], []).append(_billed(row))
    return begun


def _billed(row: Row) -> BilledUsage:
    return BilledUsage(
        subscription_id=row["subscription_id"],
        key=row["key"],
        meter_no=row["meter_no"],
        period=Period(start=row["period_start"], end=row["period_end"]),
        price=row["price"],
        quantity=row["quantity"],
        amount_minor=row["amount_minor"],
    )
