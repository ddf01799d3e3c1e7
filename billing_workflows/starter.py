"""Starts a workflow for whatever waits for one: kinds of work of which something is due, revisions of meters to be
built, test clocks with something to do, endpoints of webhooks with deliveries that are due.

PostgreSQL is the truth about what waits; starting twice is one start, since a workflow's id says what it is for. So
nothing is lost if this process dies between the two, or if Temporal is away for a while; and while nothing waits,
Temporal has nothing to do (ADR 0014).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from billing_workflows.clocks import find_work
from billing_workflows.doors import Doors
from billing_workflows.due import KINDS, Kind
from infra.postgres.due import Moment
from infra.postgres.meter_builds import load_waiting
from infra.postgres.webhooks.endpoints import find_due
from infra.temporal.labels import Labels, start_labelled
from schemas.errors import Retry
from schemas.workflows import (
    ADVANCE_CLOCK,
    BILLING_SWEEP,
    BILLING_TASK_QUEUE,
    BUILD_METER,
    DELIVER_WEBHOOKS,
    FAILING_WEBHOOKS_TASK_QUEUE,
    METERS_TASK_QUEUE,
    WEBHOOKS_TASK_QUEUE,
    BuildRequest,
    ClockRequest,
    DeliveryRequest,
    SweepRequest,
)

LOOK_SECONDS = 0.5
MAX_LOOKS = len(KINDS) + 3  # at a time, each with a connection
MAX_BUILDS = 200  # that run at once
MAX_ENDPOINTS = 200  # whose webhooks are delivered at once

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A workflow that is to run, by which people find it. `reason`: another one for the same id is a new start."""

    workflow: str
    request: object
    task_queue: str
    labels: Labels
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that waits for workflows. `look` gives them by id. One that still waits is started again after
    `again`: its workflow may have been ended, or have looked just before."""

    look: Callable[[Doors], Mapping[str, Waiting]]
    again: timedelta
    every_seconds: float = LOOK_SECONDS


async def start_waiting(client: Client, doors: Doors, *, sweep_seconds: float) -> None:
    """Look for what waits and start it, until cancelled. What is due is looked for every `sweep_seconds`."""
    async with asyncio.TaskGroup() as group:
        for source in _sources(sweep_seconds):
            group.create_task(_serve(client, doors, source))


async def _serve(client: Client, doors: Doors, source: Source) -> None:
    started: dict[tuple[str, str], datetime] = {}
    while True:
        try:
            waiting = await asyncio.to_thread(source.look, doors)
            now = datetime.now(UTC)
            wanted = {(name, found.reason) for name, found in waiting.items()}
            started = {key: at for key, at in started.items() if key in wanted and now - at < source.again}
            for name, found in waiting.items():
                if (name, found.reason) not in started:
                    await _start(client, name, found)
                    started[name, found.reason] = now
        except (Retry, RPCError) as error:
            log.warning("workflows not started", error=str(error))
        except Exception as error:  # what is wrong with one kind of work must not stop all others
            log.error("what waits can't be looked for", exc_info=error)
        await asyncio.sleep(source.every_seconds)


async def _start(client: Client, name: str, waiting: Waiting) -> None:
    try:
        await start_labelled(
            client,
            waiting.workflow,
            waiting.request,
            workflow_id=name,
            task_queue=waiting.task_queue,
            labels=waiting.labels,
        )
    except WorkflowAlreadyStartedError:
        log.debug("it runs already", workflow=name)


def _sweep(kind: Kind, doors: Doors) -> dict[str, Waiting]:
    if not kind.load(doors, Moment(now=datetime.now(UTC)), None, 1):
        return {}
    return {
        f"sweep-{kind.name}": Waiting(
            workflow=BILLING_SWEEP,
            request=SweepRequest(kind=kind.name),
            task_queue=BILLING_TASK_QUEUE,
            labels=Labels(works_at=kind.name),
        )
    }


def _builds(doors: Doors) -> dict[str, Waiting]:
    with doors.database.transaction() as connection:
        found = load_waiting(connection, limit=MAX_BUILDS)
    return {
        f"meter-build-{build.meter_id}-{build.meter.revision}": Waiting(
            workflow=BUILD_METER,
            request=BuildRequest(meter_id=build.meter_id, revision=build.meter.revision),
            task_queue=METERS_TASK_QUEUE,
            labels=Labels(works_at=build.meter_id, tenant_id=build.tenant_id),
        )
        for build in found
    }


class _Clocks:
    """Looks at the clocks that advance, and each time at the next page of those that are ready."""

    def __init__(self) -> None:
        self._after_id = ""

    def __call__(self, doors: Doors) -> dict[str, Waiting]:
        work, self._after_id = find_work(doors.database, after_id=self._after_id)
        return {
            f"test-clock-{clock_id}": Waiting(
                workflow=ADVANCE_CLOCK,
                request=ClockRequest(clock_id=clock_id),
                task_queue=BILLING_TASK_QUEUE,
                labels=Labels(works_at=clock_id, tenant_id=found.tenant_id),
                reason=found.reason,
            )
            for clock_id, found in work.items()
        }


def _webhooks(doors: Doors) -> dict[str, Waiting]:
    with doors.database.transaction() as connection:
        found = find_due(connection, now=datetime.now(UTC), limit=MAX_ENDPOINTS)
    return {
        f"webhooks-{endpoint.id}": Waiting(
            workflow=DELIVER_WEBHOOKS,
            request=DeliveryRequest(endpoint_id=endpoint.id, is_failing=endpoint.is_failing),
            task_queue=FAILING_WEBHOOKS_TASK_QUEUE if endpoint.is_failing else WEBHOOKS_TASK_QUEUE,
            labels=Labels(works_at=endpoint.id, tenant_id=endpoint.tenant_id),
        )
        for endpoint in found
    }


def _sources(sweep_seconds: float) -> list[Source]:
    sweeps = [Source(look=partial(_sweep, kind), again=timedelta(0), every_seconds=sweep_seconds) for kind in KINDS]
    return [
        *sweeps,
        Source(look=_builds, again=timedelta(seconds=30)),
        Source(look=_Clocks(), again=timedelta(seconds=2)),
        Source(look=_webhooks, again=timedelta(seconds=1)),
    ]
