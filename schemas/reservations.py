"""Reservations, as processes that never import each other must agree on them."""

from enum import StrEnum

#: The CloudEvents extension attribute by which an event names the reservation that it settles.
EXTENSION = "reservation"

#: A pattern: what an id of a reservation looks like.
RESERVATION_ID = "rsv_[0-9a-f]{32}"

MIN_TTL_SECONDS = 1
MAX_TTL_SECONDS = 86_400
DEFAULT_TTL_SECONDS = 60


class ReservationState(StrEnum):
    """`held` until it expires, `committed` until the counters have what came before the commit; both take of the limit,
    and the others do not."""

    HELD = "held"
    COMMITTED = "committed"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"
