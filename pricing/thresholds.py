"""Threshold invoices: usage of open periods billed before they end, because it has come to a lot.

Such an invoice has a line for each usage line of the next statement, for its period so far. It moves nothing on: the
statement comes as it would have, and its lines bill the rest.
"""

from dataclasses import replace
from datetime import datetime

from pricing.statements import Statement
from pricing.terms import Terms
from schemas.billing import InvoiceKind
from schemas.instants import Period


def statement_so_far(terms: Terms, following: Statement, at: datetime) -> Statement | None:
    """The usage lines of the next statement, cut off at an instant before it; None when there are none by then."""
    since = terms.billed_until
    if since is None or not since < at < following.at:
        return None
    lines = tuple(
        replace(line, period=Period(start=line.period.start, end=min(line.period.end, at)))
        for line in following.lines
        if line.is_usage and line.period.start < at
    )
    if not lines:
        return None
    return Statement(at=at, kind=InvoiceKind.THRESHOLD, period=Period(start=since, end=at), lines=lines)
