"""The workflow of a test clock: steps until nothing is due, waiting in between for what can't be done yet."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from schemas.instants import format_instant
    from schemas.workflows import ADVANCE_CLOCK, STEP_CLOCK, STEPS_A_RUN, ClockRequest, ClockStep

STEP_TIMEOUT = timedelta(minutes=10)
STEP_HEARTBEAT = timedelta(seconds=10)  # a worker that died is noticed after this
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20))
FIRST_WAIT = timedelta(seconds=0.25)
LONGEST_WAIT = timedelta(seconds=20)


@workflow.defn(name=ADVANCE_CLOCK)
class ClockAdvance:
    """Everything that is due up to where the clock goes, in the order of time. One that can't be done is tried without
    end: the clock stays `advancing`, and its row says how far it has come."""

    @workflow.run
    async def run(self, request: ClockRequest) -> None:
        since = request.since or format_instant(workflow.now())
        wait = FIRST_WAIT
        for _ in range(STEPS_A_RUN):
            step = await workflow.execute_activity(
                STEP_CLOCK,
                ClockRequest(clock_id=request.clock_id, since=since),
                result_type=ClockStep,
                start_to_close_timeout=STEP_TIMEOUT,
                heartbeat_timeout=STEP_HEARTBEAT,
                retry_policy=RETRIES,
            )
            if step.progress == "done":
                return
            if step.progress == "waiting":
                await workflow.sleep(wait)
                wait = min(5 * wait / 4, LONGEST_WAIT)
            else:
                wait = FIRST_WAIT
        workflow.continue_as_new(ClockRequest(clock_id=request.clock_id, since=since))
