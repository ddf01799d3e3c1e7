"""What reservations look like on the wire."""

from datetime import datetime
from typing import Literal

from typing_extensions import TypedDict

from infra.postgres.pool import Row
from ingestion_api.views import JsonNumber, ObjectView, Period
from pricing.entitlements import Enforcement, Reason
from schemas.money import format_decimal
from schemas.reservations import ReservationState


class EventNameView(TypedDict):
    """Which event."""

    source: str
    id: str


class ReservationView(ObjectView):
    """A reservation as it is now. While `held` or `committed` its quantity is taken of the limit.

    `commit_event` is the event that a commit sends; `settled_by` the one that was counted in the place of the hold,
    null while none was, and when ordinary events were.
    """

    object: Literal["reservation"]
    customer: str
    feature: str
    quantity: str
    status: ReservationState
    expires_at: datetime
    committed_at: datetime | None
    ended_at: datetime | None
    commit_event: EventNameView | None
    settled_by: EventNameView | None


class ReservedView(ReservationView):
    """A new reservation, with the decision behind it. `reserved` and `remaining` have it taken off already."""

    allowed: bool
    reason: Reason
    limit: str | None
    rolled_over: str | None
    used: str | None
    reserved: str | None
    remaining: str | None
    overage: str | None
    enforcement: Enforcement | None
    period: Period | None
    subscription: str | None
    as_of: datetime | None
    lag_seconds: JsonNumber | None


def reservation_view(row: Row, *, now: datetime) -> ReservationView:
    """A row as it is at `now`: what has expired is so whether or not it was written down."""
    state = ReservationState(row["state"])
    ended_at = row["ended_at"]
    if state is ReservationState.HELD and row["expires_at"] <= now:
        state, ended_at = ReservationState.EXPIRED, row["expires_at"]
    return {
        "object": "reservation",
        "id": row["id"],
        "customer": row["customer"],
        "feature": row["feature"],
        "quantity": format_decimal(row["quantity"]),
        "status": state,
        "expires_at": row["expires_at"],
        "committed_at": row["committed_at"],
        "ended_at": ended_at,
        "commit_event": _event(row["commit_source"], row["commit_event_id"]),
        "settled_by": _event(row["settled_source"], row["settled_event_id"]),
        "created_at": row["created_at"],
        "metadata": row["metadata"],
    }


def _event(source: str | None, event_id: str | None) -> EventNameView | None:
    return None if source is None or event_id is None else {"source": source, "id": event_id}
