"""Workflows that wait for hours, on a server that lets time pass at once: real activities on real stores."""

import asyncio
import sysconfig
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from billing_workflows.clock_advance import ClockAdvance
from billing_workflows.deliveries import DeliveryDoors
from billing_workflows.sweep import BillingSweep
from billing_workflows.webhooks import WebhookDelivery
from billing_workflows.worker import ACTIVITY_THREADS, make_webhooks_worker, make_worker
from schemas.workflows import (
    BILLING_TASK_QUEUE,
    WEBHOOKS_TASK_QUEUE,
    ClockRequest,
    Delivered,
    DeliveryRequest,
    SweepRequest,
    SweepTotals,
)
from tests.support.billing import ADVANCE, World
from tests.support.clocks import clock, go_to, new_clock, subscribe
from tests.support.receiver import running_receiver
from tests.support.webhooks import make_due

FAR = "2099-01-01"
OUTAGE = timedelta(hours=1)
MAX_EVENTS = 1_500  # of one run's history: far below the 10,000 from which on Temporal warns
SERVER = Path(sysconfig.get_path("scripts")) / "temporal-test-server"


@asynccontextmanager
async def time_that_skips(world: World) -> AsyncGenerator[WorkflowEnvironment]:
    """A server whose timers fire at once while somebody waits, with workers of billing and of webhooks over the world's
    stores."""
    deliveries = DeliveryDoors(database=world.doors.database, clock=lambda: datetime.now(UTC), allow_private=True)
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=str(SERVER)) as environment:
        with ThreadPoolExecutor(2 * ACTIVITY_THREADS) as executor:
            webhooks = make_webhooks_worker(
                environment.client, deliveries, executor, task_queue=WEBHOOKS_TASK_QUEUE, threads=ACTIVITY_THREADS
            )
            async with make_worker(environment.client, world.doors, executor), webhooks:
                yield environment


@contextmanager
def missing(world: World, table: str) -> Generator[None]:
    """A store in which nothing that needs this table can be done."""
    with world.doors.database.transaction() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {table}_away".encode())
    try:
        yield
    finally:
        with world.doors.database.transaction() as connection:
            connection.execute(f"ALTER TABLE {table}_away RENAME TO {table}".encode())


async def start_advance(environment: WorkflowEnvironment, clock_id: str) -> WorkflowHandle[ClockAdvance, None]:
    return await environment.client.start_workflow(
        ClockAdvance.run, ClockRequest(clock_id=clock_id), id=clock_id, task_queue=BILLING_TASK_QUEUE
    )


async def longest_run(environment: WorkflowEnvironment, handle: WorkflowHandle[ClockAdvance, None]) -> int:
    """Events in the history of the workflow's newest run."""
    history = await environment.client.get_workflow_handle(handle.id).fetch_history()
    return len(history.events)


def test_a_clock_waits_for_hours_for_its_events_and_its_history_stays_short(world: World) -> None:
    clock_id = new_clock(world)
    subscription = subscribe(world, clock_id)
    go_to(world, clock_id, "2026-03-01")

    async def advance() -> int:
        async with time_that_skips(world) as environment:
            handle = await start_advance(environment, clock_id)
            await environment.sleep(OUTAGE)
            assert clock(world, clock_id) == ("advancing", "2026-01-01")
            assert world.invoices(subscription) == []
            world.stored_until(FAR)
            await handle.result()
            return await longest_run(environment, handle)

    assert asyncio.run(advance()) < MAX_EVENTS
    assert clock(world, clock_id) == ("ready", "2026-03-01")
    assert [invoice["total_minor"] for invoice in world.invoices(subscription)] == [4900] * 3


def test_a_clock_goes_on_after_a_store_that_was_away_for_hours(world: World) -> None:
    world.stored_until(FAR)
    clock_id = new_clock(world)
    subscription = subscribe(world, clock_id)
    go_to(world, clock_id, "2026-02-01")

    async def advance() -> None:
        async with time_that_skips(world) as environment:
            with missing(world, "test_clocks"):
                handle = await start_advance(environment, clock_id)
                await environment.sleep(OUTAGE)
            await handle.result()

    asyncio.run(advance())
    assert clock(world, clock_id) == ("ready", "2026-02-01")
    assert len(world.invoices(subscription)) == 2


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_a_sweep_leaves_chunks_that_fail_for_long_to_the_next_one(world: World, chunk_size: int) -> None:
    subscriptions = [world.subscribe(ADVANCE) for _ in range(3)]
    world.doors = replace(world.doors, chunk_size=chunk_size)

    async def sweep(name: str) -> SweepTotals:
        request = SweepRequest(now="2026-01-01T00:00:00Z")
        return await environment.client.execute_workflow(
            BillingSweep.run, request, id=name, task_queue=BILLING_TASK_QUEUE
        )

    async def sweep_twice() -> tuple[SweepTotals, SweepTotals]:
        nonlocal environment
        async with time_that_skips(world) as environment:
            with missing(world, "invoice_lines"):
                failed = await sweep("first")
            return failed, await sweep("second")

    environment: WorkflowEnvironment
    failed, done = asyncio.run(sweep_twice())
    assert failed == SweepTotals(failed_chunks=3 // chunk_size)
    assert done == SweepTotals(invoices=3, statements=3)
    assert len(world.invoices()) == len(subscriptions)


def test_deliveries_that_a_run_has_given_up_stay_due_for_the_next_one(world: World) -> None:
    async def deliver(environment: WorkflowEnvironment, endpoint_id: str, name: str) -> Delivered:
        return await environment.client.execute_workflow(
            WebhookDelivery.run, DeliveryRequest(endpoint_id=endpoint_id), id=name, task_queue=WEBHOOKS_TASK_QUEUE
        )

    async def deliver_twice(endpoint_id: str) -> Delivered:
        async with time_that_skips(world) as environment:
            with missing(world, "webhook_deliveries"), pytest.raises(WorkflowFailureError):
                await deliver(environment, endpoint_id, "first")
            return await deliver(environment, endpoint_id, "second")

    with running_receiver() as receiver:
        endpoint_id = make_due(world, f"{receiver.url}/hooks", 3)
        assert asyncio.run(deliver_twice(endpoint_id)) == Delivered(succeeded=3)
        assert len(receiver.at("/hooks")) == 3
