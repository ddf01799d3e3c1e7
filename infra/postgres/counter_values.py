"""Which values unique counts have counted, and by how many events, over all shards of an entitlement's period."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.pool import PgConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """So many more events, or fewer, have a value, of which `digest` is 16 bytes that stand for it."""

    entitlement_no: int
    period_start: datetime
    meter_revision: int
    digest: bytes
    refs: int


def count_values(connection: PgConnection, changes: Sequence[ValueChange]) -> dict[tuple[int, datetime, int], int]:
    """By (entitlement, period start, revision): how many values more, or fewer, have an event now. Each value is there
    once. Flows that count the same values wait for each other, all in one order."""
    if not changes:
        return {}
    rows = connection.execute(
        "WITH given AS (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::integer[], %s::bytea[],"
        "  %s::bigint[]) AS g (no, start, revision, value, refs)),"
        " counted AS (INSERT INTO entitlement_values AS v (entitlement_no, period_start, meter_revision, value, refs)"
        "  SELECT no, start, revision, value, refs FROM given ORDER BY no, start, revision, value"
        "  ON CONFLICT (entitlement_no, period_start, meter_revision, value)"
        "  DO UPDATE SET refs = v.refs + excluded.refs"
        "  RETURNING entitlement_no, period_start, meter_revision, value, refs)"
        " SELECT g.no, g.start, g.revision, sum((c.refs > 0)::integer - (c.refs - g.refs > 0)::integer) AS more"
        " FROM counted c JOIN given g ON c.entitlement_no = g.no AND c.period_start = g.start"
        " AND c.meter_revision = g.revision AND c.value = g.value GROUP BY 1, 2, 3",
        (
            [change.entitlement_no for change in changes],
            [change.period_start for change in changes],
            [change.meter_revision for change in changes],
            [change.digest for change in changes],
            [change.refs for change in changes],
        ),
        prepare=False,  # a plan for few values would take for ever with many
    )
    return {(row["no"], row["start"], row["revision"]): row["more"] for row in rows}
