"""What every list of due work has in common: its order, and whose work it is."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Due(NamedTuple):
    """A place in the order of what is due: the instant, then the id of the row."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """`now`, for the customers of one test clock; `clock_id` None: for all customers that have none."""

    now: datetime
    clock_id: str | None = None
