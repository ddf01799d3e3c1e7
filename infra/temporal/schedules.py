"""Fixed schedules: made once, kept equal to what the code says by every worker that starts."""

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from infra.temporal.labels import Labels, labelled

#: Runs missed while the server was away are caught up this far back only: one sweep does what many would have done.
#: Ten seconds is the least that a server takes.
CATCHUP_SECONDS = 10


async def ensure_schedule(
    client: Client, *, schedule_id: str, workflow: str, argument: object, task_queue: str, every_seconds: int
) -> None:
    """Have `workflow(argument)` started every so often, never twice at a time, labelled with the schedule's id.

    Safe to call from several starting workers. An existing schedule takes the new interval; one that an operator has
    paused stays paused.
    """

    async def ensure(attributes: TypedSearchAttributes) -> None:
        action = ScheduleActionStartWorkflow(
            workflow, argument, id=schedule_id, task_queue=task_queue, typed_search_attributes=attributes
        )
        spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=every_seconds))])
        policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(seconds=CATCHUP_SECONDS))
        await _make_or_update(client, schedule_id, Schedule(action=action, spec=spec, policy=policy))

    await labelled(Labels(works_at=schedule_id), ensure)


async def _make_or_update(client: Client, schedule_id: str, schedule: Schedule) -> None:
    def update(found: ScheduleUpdateInput) -> ScheduleUpdate | None:
        present = found.description.schedule
        if (
            present.spec.intervals == schedule.spec.intervals
            and present.policy == schedule.policy
            and _attributes(present) == _attributes(schedule)
        ):
            return None  # nothing to write, so nothing to write over
        schedule.state = present.state
        return ScheduleUpdate(schedule)

    try:
        await client.create_schedule(schedule_id, schedule)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(schedule_id).update(update)


def _attributes(schedule: Schedule) -> TypedSearchAttributes:
    if not isinstance(schedule.action, ScheduleActionStartWorkflow):
        raise TypeError(f"a schedule that starts no workflow: {schedule.action}")
    return schedule.action.typed_search_attributes


async def remove_schedule(client: Client, schedule_id: str) -> None:
    """Have nothing started by a schedule any more, if it is there. What it has started goes on."""
    try:
        await client.get_schedule_handle(schedule_id).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
