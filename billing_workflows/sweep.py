"""The sweep: page by page through what is due of one kind, chunk activities side by side, then the next page.

It decides nothing about money. A chunk that fails is left to the next sweep; the run goes on.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from schemas.instants import format_instant
    from schemas.workflows import (
        BILL_CHUNK,
        BILLING_SWEEP,
        LOAD_DUE_PAGE,
        PAGES_A_RUN,
        ChunkRequest,
        ChunkResult,
        DuePage,
        DuePageRequest,
        SweepRequest,
        SweepTotals,
    )

PAGE_TIMEOUT = timedelta(seconds=60)
CHUNK_TIMEOUT = timedelta(minutes=10)
CHUNK_HEARTBEAT = timedelta(seconds=10)  # a worker that died is noticed after this
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20), maximum_attempts=5)


@workflow.defn(name=BILLING_SWEEP)
class BillingSweep:
    """One pass over everything of a kind that is due at `now`, of customers without a test clock. The result counts
    what was done."""

    @workflow.run
    async def run(self, request: SweepRequest) -> SweepTotals:
        now = request.now or format_instant(workflow.now())
        after_at, after_id, totals = request.after_at, request.after_id, request.totals
        for _ in range(PAGES_A_RUN):
            page = await workflow.execute_activity(
                LOAD_DUE_PAGE,
                DuePageRequest(now=now, after_at=after_at, after_id=after_id, kind=request.kind),
                result_type=DuePage,
                start_to_close_timeout=PAGE_TIMEOUT,
                retry_policy=RETRIES,
            )
            results = await asyncio.gather(*(self._run(now, request.kind, chunk) for chunk in page.chunks))
            totals = _add(totals, results)
            after_at, after_id = page.after_at, page.after_id
            if not after_id:
                return totals
        return workflow.continue_as_new(
            SweepRequest(kind=request.kind, now=now, after_at=after_at, after_id=after_id, totals=totals)
        )

    async def _run(self, now: str, kind: str, ids: list[str]) -> ChunkResult | None:
        try:
            return await workflow.execute_activity(
                BILL_CHUNK,
                ChunkRequest(now=now, ids=ids, kind=kind),
                result_type=ChunkResult,
                start_to_close_timeout=CHUNK_TIMEOUT,
                heartbeat_timeout=CHUNK_HEARTBEAT,
                retry_policy=RETRIES,
            )
        except ActivityError as error:
            workflow.logger.warning("a chunk failed and waits for the next sweep", exc_info=error)
            return None


def _add(totals: SweepTotals, results: list[ChunkResult | None]) -> SweepTotals:
    done = [result for result in results if result is not None]
    return replace(
        totals,
        invoices=totals.invoices + sum(result.invoices for result in done),
        statements=totals.statements + sum(result.statements for result in done),
        done=totals.done + sum(result.done for result in done),
        parked=totals.parked + sum(result.parked for result in done),
        waiting=totals.waiting + sum(result.waiting for result in done),
        failed_chunks=totals.failed_chunks + len(results) - len(done),
    )
