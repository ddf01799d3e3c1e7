"""Drafts become final when their time has come, page by page and chunk by chunk as everything that is due."""

from collections.abc import Sequence
from datetime import timedelta

import structlog

from billing_workflows.doors import Doors
from infra.postgres.due import Due, Moment
from infra.postgres.due_drafts import load_due_drafts, postpone_draft
from infra.postgres.invoice_lifecycle import finalize_drafts
from schemas.errors import Retry
from schemas.workflows import ChunkResult

log = structlog.get_logger()

POSTPONED = timedelta(days=1)  # a draft that can't be finalized is tried again then


def load_drafts(doors: Doors, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    with doors.database.transaction() as connection:
        return load_due_drafts(connection, moment=moment, after=after, limit=limit)


def finalize_chunk(doors: Doors, ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Finalize these drafts, in one transaction, or one by one when together they can't be.

    Those that somebody finalized or deleted meanwhile are passed by. Raises Retry when PostgreSQL is away.
    """
    try:
        return ChunkResult(done=_finalize(doors, ids, moment))
    except Retry:
        raise
    except Exception as error:
        log.warning("drafts are finalized one by one", drafts=len(ids), reason=str(error))
    done = parked = 0
    for invoice_id in ids:
        try:
            done += _finalize(doors, [invoice_id], moment)
        except Retry:
            raise
        except Exception as error:
            log.error("a draft can't be finalized", invoice=invoice_id, exc_info=error)
            with doors.database.transaction() as connection:
                postpone_draft(connection, invoice_id, until=moment.now + POSTPONED)
            parked += 1
    return ChunkResult(done=done, parked=parked)


def _finalize(doors: Doors, ids: Sequence[str], moment: Moment) -> int:
    with doors.database.transaction() as connection:
        return len(finalize_drafts(connection, ids, now=moment.now))
