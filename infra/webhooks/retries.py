"""When a delivery is tried again, and when an endpoint is given up."""

from datetime import datetime, timedelta
from zlib import crc32

#: Between one try and the next, about three days in all. After the last of them the delivery has failed.
DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
JITTER_PERMILLE = 100  # each delay is up to so much shorter or longer, so that what failed together comes apart
DISABLE_AFTER = timedelta(days=5)  # of failures and not one success


def next_try(delivery_id: str, tries: int, *, now: datetime) -> datetime | None:
    """When to try again after `tries` failures; None: no more. The jitter follows from the id."""
    if tries > len(DELAYS):
        return None
    jitter = crc32(f"{delivery_id}/{tries}".encode()) % (2 * JITTER_PERMILLE + 1) - JITTER_PERMILLE
    return now + DELAYS[tries - 1] * (1000 + jitter) // 1000
