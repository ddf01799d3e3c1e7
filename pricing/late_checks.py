"""When a subscription that has had its last statement is looked at for usage that came late, and what bills it.

The first look is a day after the last statement; each later one comes once as much time has gone by again, though no
longer than MAX_INTERVAL, up to the horizon of late usage. What a look finds is invoiced at once, by difference.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from pricing.statements import Statement
from pricing.terms import Terms
from schemas.billing import LATE_USAGE_HORIZON, BilledSubscription, InvoiceKind
from schemas.instants import Period

FIRST_INTERVAL = timedelta(days=1)
MAX_INTERVAL = timedelta(days=30)


def next_late_check(closed_at: datetime, now: datetime) -> datetime | None:
    """The look after one at `now`, of what had its last statement at `closed_at`; None after the horizon."""
    end = closed_at + LATE_USAGE_HORIZON
    if now >= end:
        return None
    return min(now + min(max(now - closed_at, FIRST_INTERVAL), MAX_INTERVAL), end)


def late_statement(subscription: BilledSubscription) -> Statement | None:
    """The statement of a look that is due: it has no lines but the corrections. None when no look is to come."""
    closed_at, at = subscription.billed_until, subscription.late_check_at
    if closed_at is None or at is None or subscription.next_bill_at is not None:
        return None
    return Statement(at=at, kind=InvoiceKind.ADJUSTMENT, period=Period(start=closed_at, end=at), lines=())


def late_terms(terms: Terms) -> Terms:
    """The terms of such an invoice: discounts of an amount were taken off what the periods' own invoices billed."""
    return replace(terms, discounts=tuple(each for each in terms.discounts if "amount" not in each.body))
