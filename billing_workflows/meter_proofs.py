"""The proof of all meters, page by page: their windows are what the stored facts give. A schedule runs it."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from schemas.workflows import PAGES_A_RUN, PROVE_METERS, PROVE_PAGE, ProofPage, ProofRequest

PAGE_TIMEOUT = timedelta(hours=12)  # a full proof reads all stored events; a heartbeat says that it goes on
PAGE_HEARTBEAT = timedelta(seconds=30)
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=5), maximum_interval=timedelta(minutes=5), maximum_attempts=5)


@workflow.defn(name=PROVE_METERS)
class MeterProofs:
    """One pass over all meters. What it finds is kept, told and repaired by its activities."""

    @workflow.run
    async def run(self, request: ProofRequest) -> ProofPage:
        after_no = request.after_no
        proven = drifted = 0
        for _ in range(PAGES_A_RUN):
            page = await workflow.execute_activity(
                PROVE_PAGE,
                ProofRequest(after_no=after_no),
                result_type=ProofPage,
                start_to_close_timeout=PAGE_TIMEOUT,
                heartbeat_timeout=PAGE_HEARTBEAT,
                retry_policy=RETRIES,
            )
            proven, drifted, after_no = proven + page.proven, drifted + page.drifted, page.after_no
            if not after_no:
                return ProofPage(proven=proven, drifted=drifted)
        return workflow.continue_as_new(ProofRequest(after_no=after_no))
