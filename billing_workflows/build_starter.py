"""Starts a workflow for every revision of a meter that waits to be built.

PostgreSQL is the truth about what waits; starting twice is one start, since the workflow's id says what it builds. So
nothing is lost if this process dies between the two, or if Temporal is away for a while.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from infra.postgres.meter_builds import Build, load_waiting
from infra.postgres.pool import Database
from schemas.errors import Retry
from schemas.workflows import BUILD_METER, METERS_TASK_QUEUE, BuildRequest

LOOK_SECONDS = 0.5
AGAIN = timedelta(seconds=30)  # after which one that still waits is started again: its workflow may have been ended
MAX_BUILDS = 200  # that run at once

log = structlog.get_logger()


async def start_builds(client: Client, database: Database) -> None:
    """Look for what waits and start it, until cancelled."""
    started: dict[str, datetime] = {}
    while True:
        try:
            waiting = await asyncio.to_thread(_waiting, database)
            now = datetime.now(UTC)
            started = {name: at for name, at in started.items() if name in waiting and now - at < AGAIN}
            for name, build in waiting.items():
                if name not in started:
                    await _start(client, name, build)
                    started[name] = now
        except (Retry, RPCError) as error:
            log.warning("builds not started", error=str(error))
        await asyncio.sleep(LOOK_SECONDS)


def workflow_id(meter_id: str, revision: int) -> str:
    """The id of the workflow that builds this revision."""
    return f"meter-build-{meter_id}-{revision}"


def _waiting(database: Database) -> dict[str, Build]:
    with database.transaction() as connection:
        found = load_waiting(connection, limit=MAX_BUILDS)
    return {workflow_id(build.meter_id, build.meter.revision): build for build in found}


async def _start(client: Client, name: str, build: Build) -> None:
    request = BuildRequest(meter_id=build.meter_id, revision=build.meter.revision)
    try:
        await client.start_workflow(BUILD_METER, request, id=name, task_queue=METERS_TASK_QUEUE)
    except WorkflowAlreadyStartedError:
        log.debug("build runs already", workflow=name)
