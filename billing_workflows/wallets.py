"""Wallets as a kind of due work: see `due`."""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from billing_workflows.doors import Doors
from infra.crash_points import crash_point
from infra.postgres.due import Due, Moment
from infra.postgres.wallets import due
from schemas.errors import Retry
from schemas.workflows import ChunkResult

log = structlog.get_logger()

POSTPONED = timedelta(days=1)  # a wallet of which something can't be done is looked at again then


def load_due_wallets(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """The next page of wallets in which something happens by itself."""
    with doors.database.transaction() as connection:
        return due.load_due_wallets(connection, moment=moment, after=after, limit=limit)


def run_wallets(doors: Doors, wallet_ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Start, refill, end and top up what is due of these wallets, in one transaction, or one by one when together it
    can't be done. Raises Retry when PostgreSQL is away."""
    try:
        return ChunkResult(done=_run(doors, wallet_ids, moment))
    except Retry:
        raise
    except Exception as error:
        log.warning("wallets are looked at one by one", wallets=len(wallet_ids), reason=str(error))
    done = parked = 0
    for wallet_id in wallet_ids:
        try:
            done += _run(doors, [wallet_id], moment)
        except Retry:
            raise
        except Exception as error:
            log.error("what is due of a wallet can't be done", wallet=wallet_id, exc_info=error)
            with doors.database.transaction() as connection:
                due.postpone_wallet(connection, wallet_id, until=moment.now + POSTPONED)
            parked += 1
    return ChunkResult(done=done, parked=parked)


def _run(doors: Doors, wallet_ids: Sequence[str], moment: Moment) -> int:
    with doors.database.transaction() as connection:
        done = due.run_wallets(connection, wallet_ids, now=moment.now)
    crash_point("wallets.committed")
    return done
