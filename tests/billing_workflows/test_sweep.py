"""The sweep on a real Temporal server, with workers as processes of their own that may be killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory

from billing_workflows import due
from billing_workflows.sweep import BillingSweep
from billing_workflows.worker import ACTIVITY_THREADS, FORMER_SCHEDULES, PROOF_SCHEDULE, make_worker
from infra.settings import Settings
from infra.temporal.schedules import ensure_schedule
from schemas import workflows
from schemas.workflows import BILLING_SWEEP, BILLING_TASK_QUEUE, BILLS, WALLETS, SweepRequest, SweepTotals
from tests.support.billing import ADVANCE, World, instant
from tests.support.services import make_namespace

WAIT_SECONDS = 60
POLL_SECONDS = 0.1
FAR = "2099-01-01"
SAVE_POINTS = ["numbered", "invoices_written", "credits_written", "before_commit", "committed"]


@pytest.fixture(scope="module")
def namespaced(databases: Settings) -> Settings:
    """A namespace of Temporal's own, so that no other test's worker takes this work."""
    return databases.model_copy(update={"temporal_namespace": make_namespace(databases), "billing_sweep_seconds": 1})


@contextmanager
def worker(settings: Settings, *, log: IO[bytes] | None = None, **more: str) -> Generator[subprocess.Popen[bytes]]:
    """`python -m billing_workflows` over these stores, which says what it does to `log`; ended, if it still runs, when
    the block ends."""
    environment = {f"METERLINE_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "billing_workflows"],
        env={**os.environ, **environment, **more},
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(POLL_SECONDS)


def test_two_workers_bill_everything_once_with_numbers_that_have_no_gap(world: World, namespaced: Settings) -> None:
    subscriptions = [world.subscribe(start_at="2026-07-10") for _ in range(30)]
    for subscription in subscriptions[:10]:
        world.use(subscription, ("2026-07-20", 100), ("2026-08-20", 200))
    world.stored_until(FAR)
    settings = namespaced.model_copy(update={"billing_chunk_size": 3})
    with worker(settings) as one, worker(settings) as two:
        wait_for(lambda: not world.due("2026-11-20"))
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
        assert (one.wait(WAIT_SECONDS), two.wait(WAIT_SECONDS)) == (0, 0)
    invoices = world.invoices()
    months = {5: instant("2026-11-10"), 6: instant("2026-12-10")}
    by_subscription = Counter(invoice["subscription_id"] for invoice in invoices)
    assert set(by_subscription) == {subscription.id for subscription in subscriptions}
    assert set(by_subscription.values()) <= set(months)
    keys = {(invoice["subscription_id"], invoice["period_end"]) for invoice in invoices}
    assert len(keys) == len(invoices)
    numbers = sorted(int(invoice["number"].removeprefix("INV-")) for invoice in invoices)
    assert numbers == list(range(1, len(invoices) + 1))
    totals = [invoice["total_minor"] for invoice in world.invoices(subscriptions[0])]
    assert totals[:3] == [4900, 5000, 5100]


def test_a_worker_that_is_killed_between_any_two_writes_leaves_one_invoice(world: World) -> None:
    subscriptions = [world.subscribe(ADVANCE) for _ in SAVE_POINTS]
    environment = {
        **os.environ,
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.due_once", BILLS, "2026-01-01T00:00:00Z", subscription.id],
            env={**environment, "METERLINE_CRASH_AT": f"billing.{point}"},
        )
        for subscription, point in zip(subscriptions, SAVE_POINTS, strict=True)
    ]
    assert [process.wait(WAIT_SECONDS) for process in processes] == [-signal.SIGKILL] * len(SAVE_POINTS)
    [kept] = world.invoices()
    assert kept["subscription_id"] == subscriptions[-1].id
    world.bill(*subscriptions, now="2026-01-01")
    invoices = world.invoices()
    assert Counter(invoice["subscription_id"] for invoice in invoices) == {found.id: 1 for found in subscriptions}
    assert {invoice["number"] for invoice in invoices} == {f"INV-{n:06d}" for n in range(1, len(SAVE_POINTS) + 1)}
    told = world.rows("SELECT object_id FROM outbox WHERE tenant_id = %(t)s", t=world.tenant_id)
    assert sorted(row["object_id"] for row in told) == sorted(invoice["id"] for invoice in invoices)


def test_the_chunk_of_a_killed_worker_is_taken_over_by_another(world: World, namespaced: Settings) -> None:
    subscription = world.subscribe(ADVANCE, start_at="2026-10-10", end_at=instant("2026-10-20"))
    with worker(namespaced, METERLINE_CRASH_AT="billing.before_commit") as killed:
        assert killed.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert world.invoices() == []
    with worker(namespaced):
        wait_for(lambda: world.row(subscription)["status"] == "ended")
    assert len(world.invoices()) == 1


def test_a_worker_that_is_told_to_end_brings_what_it_is_at_to_an_end(
    world: World, namespaced: Settings, tmp_path: Path
) -> None:
    subscription = world.subscribe(ADVANCE, start_at="2026-10-10", end_at=instant("2026-10-20"))
    said = tmp_path / "worker.log"
    with said.open("wb") as log, worker(namespaced, log=log) as process:
        with world.doors.database.transaction() as connection:
            connection.execute("SELECT FROM subscriptions WHERE id = %s FOR UPDATE", (subscription.id,))
            wait_for(lambda: waits_for_a_lock(world))
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: b"billing worker ends" in said.read_bytes())
        assert process.wait(WAIT_SECONDS) == 0
    assert len(world.invoices()) == 1
    world.bill(subscription, now="2026-11-01")
    assert (len(world.invoices()), world.row(subscription)["status"]) == (1, "ended")


def waits_for_a_lock(world: World) -> bool:
    """Whether somebody in this database waits for what another holds."""
    rows = world.rows("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    return bool(rows)


def test_a_long_sweep_goes_on_as_a_new_run_and_counts_all_of_it(
    world: World, databases: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = databases.model_copy(update={"temporal_namespace": make_namespace(databases)})  # no schedule sweeps here
    subscriptions = [world.subscribe(ADVANCE, start_at="2026-10-10") for _ in range(9)]
    monkeypatch.setattr(due, "CHUNKS_A_PAGE", 2)
    monkeypatch.setattr(workflows, "PAGES_A_RUN", 2)
    world.doors = replace(world.doors, chunk_size=1)
    totals, first_run = asyncio.run(sweep_once(alone, world, now="2026-10-10T00:00:00Z"))
    assert totals == SweepTotals(invoices=9, statements=9)
    assert first_run.events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
    assert {invoice["subscription_id"] for invoice in world.invoices()} == {found.id for found in subscriptions}


async def sweep_once(settings: Settings, world: World, *, now: str) -> tuple[SweepTotals, WorkflowHistory]:
    """What one sweep did, by a worker in this process, and the history of its first run."""
    client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
    with ThreadPoolExecutor(ACTIVITY_THREADS) as executor:
        async with make_worker(client, world.doors, executor):
            handle = await client.start_workflow(
                BillingSweep.run, SweepRequest(now=now), id=f"sweep-{world.tenant_id}", task_queue=BILLING_TASK_QUEUE
            )
            totals = await handle.result()
    first = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    return totals, await first.fetch_history()


def test_an_idle_worker_starts_no_sweep_and_takes_away_the_schedules_of_former_versions(
    world: World, databases: Settings
) -> None:
    settings = databases.model_copy(
        update={"temporal_namespace": make_namespace(databases), "billing_sweep_seconds": 1}
    )

    async def make_former() -> None:
        client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
        for schedule_id in FORMER_SCHEDULES:
            await ensure_schedule(
                client,
                schedule_id=schedule_id,
                workflow=BILLING_SWEEP,
                argument=SweepRequest(),
                task_queue=BILLING_TASK_QUEUE,
                every_seconds=3600,
            )

    async def look() -> tuple[set[str], list[str]]:
        """The schedules, and the ids of the sweeps so far."""
        client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
        schedules = {schedule.id async for schedule in await client.list_schedules()}
        sweeps = client.list_workflows(f"WorkflowType = '{BILLING_SWEEP}'")
        return schedules, [run.id async for run in sweeps]

    asyncio.run(make_former())
    with worker(settings):
        wait_for(lambda: not asyncio.run(look())[0] & set(FORMER_SCHEDULES))
        subscription = world.subscribe(ADVANCE, start_at="2026-10-10", end_at=instant("2026-10-20"))
        wait_for(lambda: world.row(subscription)["status"] == "ended")
        wait_for(lambda: bool(asyncio.run(look())[1]))
    _, sweeps = asyncio.run(look())
    assert f"sweep-{BILLS}" in sweeps
    assert f"sweep-{WALLETS}" not in sweeps


def test_the_schedule_follows_the_settings_and_stays_paused(namespaced: Settings) -> None:
    async def ensure(client: Client, seconds: int) -> None:
        await ensure_schedule(
            client,
            schedule_id=PROOF_SCHEDULE + "-test",
            workflow=BILLING_SWEEP,
            argument=SweepRequest(),
            task_queue="nobody",
            every_seconds=seconds,
        )

    async def check() -> None:
        client = await Client.connect(namespaced.temporal_address, namespace=namespaced.temporal_namespace)
        await asyncio.gather(*(ensure(client, 3600) for _ in range(3)))
        handle = client.get_schedule_handle(PROOF_SCHEDULE + "-test")
        await handle.pause()
        for _ in range(100):  # the server takes it in after it has answered
            if (await handle.describe()).schedule.state.paused:
                break
            await asyncio.sleep(POLL_SECONDS)
        await ensure(client, 60)
        schedule = (await handle.describe()).schedule
        assert schedule.state.paused
        assert [interval.every for interval in schedule.spec.intervals] == [timedelta(seconds=60)]
        await handle.delete()

    asyncio.run(check())
