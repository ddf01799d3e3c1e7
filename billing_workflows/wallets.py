"""Wallets as a kind of due work: see `due`."""

from collections.abc import Sequence

from billing_workflows.doors import Doors
from infra.crash_points import crash_point
from infra.postgres.due import Due, Moment
from infra.postgres.wallets import due
from schemas.workflows import ChunkResult


def load_due_wallets(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """The next page of wallets in which something happens by itself."""
    with doors.database.transaction() as connection:
        return due.load_due_wallets(connection, moment=moment, after=after, limit=limit)


def run_wallets(doors: Doors, wallet_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Start, refill, end and top up what is due of these wallets, in one transaction."""
    with doors.database.transaction() as connection:
        done = due.run_wallets(connection, wallet_ids, now=moment.now)
    crash_point("wallets.committed")
    return ChunkResult(done=done)
