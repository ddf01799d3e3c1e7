"""Kinds of work that becomes due at an instant: one registry for the sweeps and for test clocks.

Ordinary customers: when something of a kind is due, a sweep goes through it page by page, in chunks side by side; the
kinds do not wait for one another. Customers of a test clock: the clock moves to the least `earliest` of all kinds, runs
all kinds there in the order of KINDS, and so on, so that what is due first happens first.

To add a kind, write three functions and a line in KINDS, where the place decides which of two kinds goes first at one
and the same instant:

    load(doors, moment, after, limit)  up to `limit` due items beyond `after` in the order of (at, id), of the customers
                                       of `moment.clock_id`, or of all that have no clock (None: have an index for each,
                                       as `subscriptions_due` and `subscriptions_due_by_clock` are);
    run(doors, ids, moment)            do them, at `moment.now`; what of an id is no longer due is passed by. Safe to
                                       repeat and to be done by two at once: the effect and the row that makes it due
                                       change in one transaction. What can't be done must not be due again at once: park
                                       it, or give it a later instant, or it holds its clock up for ever;
    earliest(connection, clock_ids)    by clock, the first instant at which something of its customers is due.

`load` and `earliest` must agree: what `earliest` names is found by `load` at that instant. `run` counts in `done` what
it has changed, and in `waiting` what was due and can't be done yet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from billing_workflows.billing import bill_chunk, load_due_bills
from billing_workflows.charging import (
    MAX_ASKED,
    earliest_collections,
    earliest_refunds,
    load_collections,
    load_refunds,
    run_collections,
    run_refunds,
)
from billing_workflows.doors import Doors
from billing_workflows.drafts import finalize_chunk, load_drafts
from billing_workflows.dunning import load_dunning, run_dunning
from billing_workflows.late_checks import load_late_checks, run_late_checks
from billing_workflows.thresholds import load_thresholds, run_thresholds
from billing_workflows.wallets import load_due_wallets, run_wallets
from infra.postgres.billing import earliest_bills
from infra.postgres.due import Due, Moment
from infra.postgres.due_drafts import earliest_drafts
from infra.postgres.dunning import earliest_dunning
from infra.postgres.late_checks import earliest_late_checks
from infra.postgres.pool import PgConnection
from infra.postgres.thresholds import earliest_thresholds
from infra.postgres.wallets.due import earliest_wallets
from schemas.instants import format_instant, parse_instant
from schemas.workflows import (
    BILLS,
    CHUNKS_A_PAGE,
    COLLECTIONS,
    DRAFTS,
    DUNNING,
    IDS_A_PAGE,
    LATE_CHECKS,
    REFUNDS,
    THRESHOLDS,
    WALLETS,
    ChunkResult,
    DuePage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of due work; see above."""

    name: str
    load: Callable[[Doors, Moment, Due | None, int], list[Due]]
    run: Callable[[Doors, Sequence[str], Moment], ChunkResult]
    earliest: Callable[[PgConnection, Sequence[str]], Mapping[str, datetime]]
    max_chunk: int | None = None  # items of a chunk, when each may take seconds


KINDS = (
    Kind(name=WALLETS, load=load_due_wallets, run=run_wallets, earliest=earliest_wallets),  # what is to pay below
    Kind(name=DRAFTS, load=load_drafts, run=finalize_chunk, earliest=earliest_drafts),  # what was billed before
    Kind(name=BILLS, load=load_due_bills, run=bill_chunk, earliest=earliest_bills),
    Kind(name=THRESHOLDS, load=load_thresholds, run=run_thresholds, earliest=earliest_thresholds),  # of what is open
    Kind(name=LATE_CHECKS, load=load_late_checks, run=run_late_checks, earliest=earliest_late_checks),  # of what ended
    Kind(name=DUNNING, load=load_dunning, run=run_dunning, earliest=earliest_dunning),  # of what was never paid
    Kind(  # of all these
        name=COLLECTIONS,
        load=load_collections,
        run=run_collections,
        earliest=earliest_collections,
        max_chunk=MAX_ASKED,
    ),
    Kind(  # of what came too late
        name=REFUNDS, load=load_refunds, run=run_refunds, earliest=earliest_refunds, max_chunk=MAX_ASKED
    ),
)

_KIND_OF = {kind.name: kind for kind in KINDS}


def load_page(doors: Doors, kind: str, moment: Moment, *, after: Due | None) -> DuePage:
    """The next page of what is due of a kind, in chunks."""
    size = min(doors.chunk_size, _KIND_OF[kind].max_chunk or doors.chunk_size)
    limit = min(CHUNKS_A_PAGE, max(IDS_A_PAGE // size, 1)) * size
    due = _KIND_OF[kind].load(doors, moment, after, limit)
    ids = [item.id for item in due]
    last = due[-1] if len(due) == limit else None
    return DuePage(
        chunks=[ids[start : start + size] for start in range(0, len(ids), size)],
        after_at="" if last is None else format_instant(last.at),
        after_id="" if last is None else last.id,
    )


def run_chunk(doors: Doors, kind: str, ids: Sequence[str], moment: Moment) -> ChunkResult:
    """Do what is due of these."""
    return _KIND_OF[kind].run(doors, ids, moment)


def place_after(page: DuePage) -> Due | None:
    """Where the page after this one begins; None: there is none."""
    return Due(parse_instant(page.after_at), page.after_id) if page.after_id else None


def run_all(doors: Doors, kind: str, moment: Moment) -> list[ChunkResult]:
    """Page by page and chunk by chunk, do all that is due of a kind; what each chunk did."""
    results: list[ChunkResult] = []
    after: Due | None = None
    while True:
        page = load_page(doors, kind, moment, after=after)
        results += [run_chunk(doors, kind, chunk, moment) for chunk in page.chunks]
        after = place_after(page)
        if after is None:
            return results
