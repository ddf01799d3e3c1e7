"""Events of tenants with test clocks, whose sender may give any time: judged by the clock of each event's customer.

A customer's clock is that of the batch's catalogue, so a redo judges alike. A tenant without clocks has had its times
judged by the API and comes here never.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flows.catalogue import Catalogue
from flows.events import Events, Rows
from schemas.events import MAX_FUTURE_SECONDS

TIME_IN_FUTURE = "event.time_in_future"

MAX_FUTURE_MICROS = MAX_FUTURE_SECONDS * 1_000_000
NO_CLOCK = np.iinfo(np.int64).min


def judge_times(events: Events, customers: NDArray[np.uint64], catalogue: Catalogue) -> tuple[Events, Rows]:
    """The events, those without a time of a clock's customer at what the clock showed when they were received; and
    which rows are ahead.

    Ahead is what is later than its customer's clock; for a customer without one, what is more than MAX_FUTURE_SECONDS
    later than its receipt. Unknown customers (0) have no clock yet: their events are judged when the subject comes.
    """
    tenants = np.array(sorted(catalogue.clock_tenants), np.uint32)
    rows = np.flatnonzero(np.isin(events.tenants, tenants) & (customers != 0))
    if not len(rows):
        return events, rows
    numbers, codes = np.unique(customers[rows], return_inverse=True)
    shown = np.array([_shown_to(catalogue, number) for number in numbers.tolist()], np.int64)[codes]
    moved_at, former = np.array([_former_of(catalogue, number) for number in numbers.tolist()], np.int64).T[:, codes]
    times, untimed = events.occurred_at[rows], events.untimed[rows]
    clocked = shown != NO_CLOCK
    latest = np.where(clocked, shown, events.received_at[rows] + MAX_FUTURE_MICROS)
    unset = clocked & untimed
    if unset.any():
        occurred_at = events.occurred_at.copy()
        occurred_at[rows[unset]] = np.where(events.received_at[rows] < moved_at, former, shown)[unset]
        events = replace(events, occurred_at=occurred_at)
    return events, rows[(times > latest) & ~untimed]


def _shown_to(catalogue: Catalogue, customer_no: int) -> int:
    clock_no = catalogue.clock_of.get(customer_no)
    return int(NO_CLOCK) if clock_no is None else catalogue.clocks[clock_no]


def _former_of(catalogue: Catalogue, customer_no: int) -> tuple[int, int]:
    return catalogue.former_clocks.get(catalogue.clock_of.get(customer_no, 0), (int(NO_CLOCK), int(NO_CLOCK)))
