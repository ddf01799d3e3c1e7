"""The activity of test clocks: a thin wrapper of `clocks.advance`."""

from datetime import UTC, datetime

from temporalio import activity

from billing_workflows.activities.beat import beating
from billing_workflows.clocks import advance
from billing_workflows.doors import Doors
from schemas.instants import parse_instant
from schemas.workflows import STEP_CLOCK, ClockRequest, ClockStep


class ClockActivities:
    """Activities over one set of doors. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    @activity.defn(name=STEP_CLOCK)
    def step_clock(self, request: ClockRequest) -> ClockStep:
        with beating():
            progress = advance(
                self._doors,
                request.clock_id,
                since=parse_instant(request.since),
                read_now=lambda: datetime.now(UTC),
                go_on=lambda: not (activity.is_worker_shutdown() or activity.is_cancelled()),
            )
        return ClockStep(progress=progress)
