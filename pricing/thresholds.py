"""Threshold invoices: usage of open periods billed before they end, because it has come to a lot.

Such an invoice has a line for each price of usage, for its period so far, also when another price's statement comes
first. It moves nothing on: the statements come as they would have, and their lines bill the rest.
"""

from dataclasses import replace
from datetime import datetime

from pricing.statements import Statement, next_statement
from pricing.terms import Terms
from schemas.billing import InvoiceKind
from schemas.instants import Period


def statement_so_far(terms: Terms, following: Statement, at: datetime) -> Statement | None:
    """The usage that is not billed at an instant before the next statement, as if all ended there; None when there is
    no price of usage by then."""
    since = terms.billed_until
    if since is None or not since < at < following.at:
        return None
    ending = next_statement(replace(terms, cancel_at=at))
    lines = () if ending is None else tuple(line for line in ending.lines if line.is_usage)
    if not lines:
        return None
    return Statement(at=at, kind=InvoiceKind.THRESHOLD, period=Period(start=since, end=at), lines=lines)
