"""The building of one revision of a meter: wait for the flows, count the past, switch readers over.

Every activity may be done again; each looks in PostgreSQL whether the revision is still wanted. One that fails is tried
again without end: a meter that nobody builds would never answer.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from schemas.workflows import (
        BUILD_METER,
        COUNT_PAST,
        SWITCH_READERS,
        WAIT_FOR_FLOWS,
        BuildRequest,
        Built,
        CountRequest,
        Past,
    )

STEP_TIMEOUT = timedelta(days=30)  # counting a large past may take long; a heartbeat says that it goes on
STEP_HEARTBEAT = timedelta(seconds=10)  # a worker that died is noticed after this
SWITCH_TIMEOUT = timedelta(seconds=60)
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


@workflow.defn(name=BUILD_METER)
class MeterBuild:
    """One revision, from waiting to active."""

    @workflow.run
    async def run(self, request: BuildRequest) -> Built:
        past = await workflow.execute_activity(
            WAIT_FOR_FLOWS,
            request,
            result_type=Past,
            start_to_close_timeout=STEP_TIMEOUT,
            heartbeat_timeout=STEP_HEARTBEAT,
            retry_policy=RETRIES,
        )
        if past.superseded:
            return Built(superseded=True)
        counted = await workflow.execute_activity(
            COUNT_PAST,
            CountRequest(meter_id=request.meter_id, revision=request.revision, past=past),
            result_type=Built,
            start_to_close_timeout=STEP_TIMEOUT,
            heartbeat_timeout=STEP_HEARTBEAT,
            retry_policy=RETRIES,
        )
        if counted.superseded:
            return counted
        switched = await workflow.execute_activity(
            SWITCH_READERS,
            request,
            result_type=Built,
            start_to_close_timeout=SWITCH_TIMEOUT,
            heartbeat_timeout=STEP_HEARTBEAT,
            retry_policy=RETRIES,
        )
        return Built(counted_events=counted.counted_events, superseded=switched.superseded)
