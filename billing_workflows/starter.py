"""Starts a workflow for whatever waits for one: revisions of meters to be built, test clocks with something to do,
endpoints of webhooks with deliveries that are due.

PostgreSQL is the truth about what waits; starting twice is one start, since a workflow's id says what it is for. So
nothing is lost if this process dies between the two, or if Temporal is away for a while.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from billing_workflows.clocks import find_work
from infra.postgres.meter_builds import load_waiting
from infra.postgres.pool import Database
from infra.postgres.webhooks.endpoints import find_due
from schemas.errors import Retry
from schemas.workflows import (
    ADVANCE_CLOCK,
    BILLING_TASK_QUEUE,
    BUILD_METER,
    DELIVER_WEBHOOKS,
    METERS_TASK_QUEUE,
    WEBHOOKS_TASK_QUEUE,
    BuildRequest,
    ClockRequest,
    DeliveryRequest,
)

LOOK_SECONDS = 0.5
MAX_BUILDS = 200  # that run at once
MAX_ENDPOINTS = 200  # whose webhooks are delivered at once

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A workflow that is to run. `reason`: another one for the same id is a new start."""

    workflow: str
    request: object
    task_queue: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that waits for workflows. `look` gives them by id. One that still waits is started again after
    `again`: its workflow may have been ended, or have looked just before."""

    look: Callable[[Database], Mapping[str, Waiting]]
    again: timedelta


async def start_waiting(client: Client, database: Database) -> None:
    """Look for what waits and start it, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for source in SOURCES:
            group.create_task(_serve(client, database, source))


async def _serve(client: Client, database: Database, source: Source) -> None:
    started: dict[tuple[str, str], datetime] = {}
    while True:
        try:
            waiting = await asyncio.to_thread(source.look, database)
            now = datetime.now(UTC)
            wanted = {(name, found.reason) for name, found in waiting.items()}
            started = {key: at for key, at in started.items() if key in wanted and now - at < source.again}
            for name, found in waiting.items():
                if (name, found.reason) not in started:
                    await _start(client, name, found)
                    started[name, found.reason] = now
        except (Retry, RPCError) as error:
            log.warning("workflows not started", error=str(error))
        await asyncio.sleep(LOOK_SECONDS)


async def _start(client: Client, name: str, waiting: Waiting) -> None:
    try:
        await client.start_workflow(waiting.workflow, waiting.request, id=name, task_queue=waiting.task_queue)
    except WorkflowAlreadyStartedError:
        log.debug("it runs already", workflow=name)


def _builds(database: Database) -> dict[str, Waiting]:
    with database.transaction() as connection:
        found = load_waiting(connection, limit=MAX_BUILDS)
    return {
        f"meter-build-{build.meter_id}-{build.meter.revision}": Waiting(
            workflow=BUILD_METER,
            request=BuildRequest(meter_id=build.meter_id, revision=build.meter.revision),
            task_queue=METERS_TASK_QUEUE,
        )
        for build in found
    }


def _clocks(database: Database) -> dict[str, Waiting]:
    return {
        f"test-clock-{clock_id}": Waiting(
            workflow=ADVANCE_CLOCK,
            request=ClockRequest(clock_id=clock_id),
            task_queue=BILLING_TASK_QUEUE,
            reason=reason,
        )
        for clock_id, reason in find_work(database).items()
    }


def _webhooks(database: Database) -> dict[str, Waiting]:
    with database.transaction() as connection:
        found = find_due(connection, now=datetime.now(UTC), limit=MAX_ENDPOINTS)
    return {
        f"webhooks-{endpoint_id}": Waiting(
            workflow=DELIVER_WEBHOOKS,
            request=DeliveryRequest(endpoint_id=endpoint_id),
            task_queue=WEBHOOKS_TASK_QUEUE,
        )
        for endpoint_id in found
    }


SOURCES = (
    Source(look=_builds, again=timedelta(seconds=30)),
    Source(look=_clocks, again=timedelta(seconds=2)),
    Source(look=_webhooks, again=timedelta(seconds=1)),
)
