"""When a change of a subscription takes effect, as bodies say it."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from ingestion_api.fields import read_instant
from pricing.statements import paid_until
from pricing.terms import Terms
from schemas.errors import Conflict, FieldError, Reject
from schemas.instants import format_instant

NOW, PERIOD_END = "now", "period_end"


def check_when(text: str) -> str:
    """`now`, `period_end` or an instant. Raises ValueError."""
    if text not in (NOW, PERIOD_END):
        read_instant(text)
    return text


When = Annotated[
    str, Field(max_length=64, description="`now`, `period_end` or an instant."), AfterValidator(check_when)
]


def instant_of(at: str, terms: Terms, now: datetime) -> datetime:
    """The instant that is meant; `period_end` is that of the longest running period, up to which fees are paid."""
    if at == NOW:
        return now
    if at == PERIOD_END:
        return paid_until(terms, now)
    return read_instant(at)


def check_not_billed(at: datetime, terms: Terms, where: str = "/at") -> None:
    """Raise Conflict `subscription.already_billed` for a change before what stands on an invoice."""
    if terms.billed_until is not None and at < terms.billed_until:
        raise refused(
            where,
            "subscription.already_billed",
            f"Everything before {format_instant(terms.billed_until)} is billed; change it from then on.",
        )


def check_within(at: datetime, terms: Terms, where: str = "/at") -> None:
    """Raise for an instant before the subscription's start (Reject) or not before its end (Conflict)."""
    if at < terms.start_at:
        raise Reject.at(where, "subscription.before_start", "The subscription has not begun at that instant.")
    if terms.stop_at is not None and at >= terms.stop_at:
        raise refused(where, "subscription.after_end", f"The subscription ends at {format_instant(terms.stop_at)}.")


def refused(where: str, code: str, detail: str) -> Conflict:
    """A Conflict of one field."""
    return Conflict(code, detail, errors=(FieldError(pointer=where, code=code, detail=detail),))
