"""Workflows are found in Temporal's own lists by what they work at, and by the tenant whose it is."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow

from billing_workflows.starter import start_waiting
from infra.settings import Settings
from infra.temporal.labels import Labels, ensure_labels, start_labelled
from infra.temporal.schedules import ensure_schedule
from schemas.workflows import BILLING_SWEEP, BILLS, SweepRequest
from tests.support.billing import ADVANCE, World
from tests.support.clocks import go_to, new_clock, subscribe
from tests.support.services import make_namespace
from tests.support.webhooks import make_due

WAIT_SECONDS = 40
TENANT_ID = "ten_0000"
NOBODY = "nobody"  # a task queue that nobody serves: what is started stands in the list
SCHEDULE = "prove"


@pytest.fixture
def namespaced(databases: Settings) -> Settings:
    """A namespace that knows none of our attributes."""
    return databases.model_copy(update={"temporal_namespace": make_namespace(databases)})


async def connect(settings: Settings) -> Client:
    return await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)


async def start(client: Client, workflow_id: str, labels: Labels) -> None:
    await start_labelled(
        client, BILLING_SWEEP, SweepRequest(), workflow_id=workflow_id, task_queue=NOBODY, labels=labels
    )


async def schedule(client: Client) -> None:
    """Have a workflow started by a schedule, and start it now."""
    await ensure_schedule(
        client,
        schedule_id=SCHEDULE,
        workflow=BILLING_SWEEP,
        argument=SweepRequest(),
        task_queue=NOBODY,
        every_seconds=3600,
    )
    await client.get_schedule_handle(SCHEDULE).trigger()


async def wait_found(client: Client, query: str, expected: set[str]) -> None:
    """Until the list of a query has these workflows; a scheduled one counts without the time in its id."""
    deadline = time.monotonic() + WAIT_SECONDS
    found: Any = None
    while found != expected:
        assert time.monotonic() < deadline, f"{query} finds {found}"
        found = {run.id.partition("-20")[0] async for run in client.list_workflows(query)}
        await asyncio.sleep(0.1)


def test_runs_are_listed_by_what_they_work_at_and_by_tenant(namespaced: Settings) -> None:
    async def check() -> None:
        client = await connect(namespaced)
        await asyncio.gather(*(ensure_labels(client) for _ in range(3)))
        await ensure_labels(client)
        await start(client, "one", Labels(works_at="clk_1", tenant_id=TENANT_ID))
        await start(client, "two", Labels(works_at="wep_1", tenant_id=TENANT_ID))
        await schedule(client)
        await wait_found(client, "MeterlineObject = 'clk_1'", {"one"})
        await wait_found(client, f"MeterlineTenant = '{TENANT_ID}'", {"one", "two"})
        await wait_found(client, f"MeterlineObject = '{SCHEDULE}'", {SCHEDULE})

    asyncio.run(check())


def test_work_is_started_also_where_nobody_has_made_the_attributes_known(namespaced: Settings) -> None:
    async def check() -> None:
        client = await connect(namespaced)
        await start(client, "plain", Labels(works_at=BILLS, tenant_id=TENANT_ID))
        await schedule(client)
        await wait_found(client, f"WorkflowType = '{BILLING_SWEEP}'", {"plain", SCHEDULE})
        await ensure_labels(client)
        await schedule(client)
        await wait_labelled(client, Labels(works_at=SCHEDULE))

    asyncio.run(check())


async def wait_labelled(client: Client, labels: Labels) -> None:
    """Until the schedule, which takes a change in after it has answered, labels what it starts."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        action = (await client.get_schedule_handle(SCHEDULE).describe()).schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        if action.typed_search_attributes == labels.attributes:
            return
        assert time.monotonic() < deadline, f"{action.typed_search_attributes}"
        await asyncio.sleep(0.1)


def test_whatever_waits_is_started_under_its_tenant(world: World, namespaced: Settings) -> None:
    world.subscribe(ADVANCE)
    clock_id = new_clock(world)
    subscribe(world, clock_id)
    go_to(world, clock_id, "2026-02-01")
    endpoint_id = make_due(world, "http://127.0.0.1:9/", 1)

    async def check() -> None:
        client = await connect(namespaced)
        await ensure_labels(client)
        starter = asyncio.create_task(start_waiting(client, world.doors, sweep_seconds=1))
        try:
            expected = {f"webhooks-{endpoint_id}", f"test-clock-{clock_id}"}
            await wait_found(client, f"MeterlineTenant = '{world.tenant_id}'", expected)
            await wait_found(client, f"MeterlineObject = '{BILLS}'", {f"sweep-{BILLS}"})
        finally:
            starter.cancel()
            with suppress(asyncio.CancelledError):
                await starter

    asyncio.run(check())
