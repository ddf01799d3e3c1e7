"""The check of invariants, page by page. A schedule runs it; what it finds is kept and told by its activity."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from schemas.workflows import CHECK_INVARIANTS, CHECK_INVARIANTS_PAGE, PAGES_A_RUN, InvariantPlace

PAGE_TIMEOUT = timedelta(minutes=10)
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=5), maximum_interval=timedelta(minutes=5), maximum_attempts=5)


@workflow.defn(name=CHECK_INVARIANTS)
class InvariantChecks:
    """One pass over what has changed lately, or over everything when that is due."""

    @workflow.run
    async def run(self, place: InvariantPlace) -> InvariantPlace:
        for _ in range(PAGES_A_RUN):
            place = await workflow.execute_activity(
                CHECK_INVARIANTS_PAGE,
                place,
                result_type=InvariantPlace,
                start_to_close_timeout=PAGE_TIMEOUT,
                retry_policy=RETRIES,
            )
            if place.is_done:
                return place
        return workflow.continue_as_new(place)
