"""Reservations that a batch settles: its counted events name them in the CloudEvents extension `reservation`.

This happens in the transaction that adds the same events to the counters, so that what was held becomes used in one
step: nobody sees both, or neither.
"""

import re
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute

from flows.attributed import Attributed, Status
from flows.events import Rows
from infra.postgres.holds import Hold
from infra.postgres.pool import PgConnection
from infra.postgres.reservations import Settling
from infra.postgres.reservations import settle as settle_reservations
from schemas.instants import from_micros
from schemas.reservations import EXTENSION, RESERVATION_ID

_compute: Any = pyarrow.compute  # it publishes no types
_extensions = msgspec.json.Decoder(dict[str, Any])
_id = re.compile(RESERVATION_ID)


def settle(connection: PgConnection, judged: Attributed | None, *, now: datetime) -> list[Hold]:
    """End the reservations that counted events of the batch name; the holds that have changed.

    Call it last in the transaction: whoever reserves waits for the rows that it locks.
    """
    settling = [] if judged is None else settling_of(judged)
    return settle_reservations(connection, events=settling, now=now) if settling else []


def settling_of(judged: Attributed) -> list[Settling]:
    """What the batch may settle, in the order of the log. A function of the batch alone."""
    events = judged.events
    found: list[Settling] = []
    for row in _rows_of(judged).tolist():
        name = _extensions.decode(events.extensions[row].as_py()).get(EXTENSION)
        if isinstance(name, str) and _id.fullmatch(name):
            found.append(
                Settling(
                    reservation_id=name,
                    customer_no=int(judged.customers[row]),
                    source=events.sources[row].as_py(),
                    event_id=events.ids[row].as_py(),
                    received_at=from_micros(int(events.received_at[row])),
                )
            )
    return found


def _rows_of(judged: Attributed) -> Rows:
    """Events that begin to count with this batch and have extensions: hardly any do."""
    lengths: Any = _compute.binary_length(judged.events.extensions)
    if not _compute.max(lengths).as_py():
        return np.zeros(0, np.int64)
    counted = judged.status == Status.COUNTED
    if judged.effects is not None:
        counted &= judged.effects == 1
    return np.flatnonzero(counted & (lengths.to_numpy(zero_copy_only=False) > 0))
