"""The Temporal worker: what it runs, how much at once, and how it ends."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from billing_workflows.activities.billing import BillingActivities
from billing_workflows.activities.clocks import ClockActivities
from billing_workflows.activities.invariants import InvariantActivities
from billing_workflows.activities.meters import MeterActivities
from billing_workflows.activities.webhooks import WebhookActivities
from billing_workflows.alerts import ALERTS_AT_ONCE, watch_alerts
from billing_workflows.clock_advance import ClockAdvance
from billing_workflows.deliveries import DeliveryDoors
from billing_workflows.doors import Doors
from billing_workflows.invariant_checks import InvariantChecks
from billing_workflows.meter_builds import MeterBuild
from billing_workflows.meter_proofs import MeterProofs
from billing_workflows.starter import MAX_LOOKS, start_waiting
from billing_workflows.sweep import BillingSweep
from billing_workflows.webhooks import WebhookDelivery
from infra.clickhouse.client import connect as connect_clickhouse
from infra.postgres.pool import Database
from infra.settings import Settings
from infra.temporal.client import connect as connect_temporal
from infra.temporal.labels import ensure_labels
from infra.temporal.schedules import ensure_schedule, remove_schedule
from schemas.workflows import (
    BILLING_TASK_QUEUE,
    CHECK_INVARIANTS,
    FAILING_WEBHOOKS_TASK_QUEUE,
    METERS_TASK_QUEUE,
    PROVE_METERS,
    WEBHOOKS_TASK_QUEUE,
    InvariantPlace,
    ProofRequest,
)

log = structlog.get_logger()

PROOF_SCHEDULE = "meter-proofs"
INVARIANTS_SCHEDULE = "billing-invariants"
FORMER_SCHEDULES = ("billing-sweep", "sweep-wallets", "sweep-drafts", "sweep-thresholds")  # ADR 0014
ACTIVITY_THREADS = 4  # billing a chunk is mostly CPU; more threads would only share it
METER_THREADS = 4  # of builds; most of them wait for flows
WEBHOOK_THREADS = 32  # each an endpoint; most of them wait for receivers
FAILING_WEBHOOK_THREADS = 8
WEBHOOK_CONNECTIONS = 8  # for all of them: each needs one for moments
WEBHOOK_QUEUES = {WEBHOOKS_TASK_QUEUE: WEBHOOK_THREADS, FAILING_WEBHOOKS_TASK_QUEUE: FAILING_WEBHOOK_THREADS}
GRACEFUL_SHUTDOWN = timedelta(seconds=30)


def make_worker(client: Client, doors: Doors, executor: ThreadPoolExecutor) -> Worker:
    """A worker with every workflow and activity of billing. `executor` runs the activities."""
    activities, clocks = BillingActivities(doors), ClockActivities(doors)
    return Worker(
        client,
        task_queue=BILLING_TASK_QUEUE,
        workflows=[BillingSweep, ClockAdvance],
        activities=[activities.load_due_page, activities.bill_chunk, clocks.step_clock],
        activity_executor=executor,
        max_concurrent_activities=ACTIVITY_THREADS,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )


def make_meters_worker(
    client: Client, activities: MeterActivities, invariants: InvariantActivities, executor: ThreadPoolExecutor
) -> Worker:
    """A worker with the workflows and activities of meters and of proofs, which bills do not wait for. `executor` runs
    the activities."""
    return Worker(
        client,
        task_queue=METERS_TASK_QUEUE,
        workflows=[MeterBuild, MeterProofs, InvariantChecks],
        activities=[
            activities.wait_for_flows,
            activities.count_past,
            activities.switch_readers,
            activities.prove_page,
            invariants.check_page,
        ],
        activity_executor=executor,
        max_concurrent_activities=METER_THREADS,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )


def make_webhooks_worker(
    client: Client, doors: DeliveryDoors, executor: ThreadPoolExecutor, *, task_queue: str, threads: int
) -> Worker:
    """A worker with the workflow and activity of webhooks, on so many threads of `executor`."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[WebhookDelivery],
        activities=[WebhookActivities(doors).deliver_chunk],
        activity_executor=executor,
        max_concurrent_activities=threads,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )


async def run_worker(settings: Settings) -> None:
    """Bill what is due until SIGTERM or SIGINT; then finish what runs, and return."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect_temporal(settings)
    await ensure_labels(client)
    connections = ACTIVITY_THREADS + METER_THREADS + WEBHOOK_CONNECTIONS + MAX_LOOKS + ALERTS_AT_ONCE
    database = Database(settings.postgres_dsn, max_connections=connections)
    clickhouse = connect_clickhouse(settings.clickhouse_url)
    doors = Doors(
        database=database,
        clickhouse=clickhouse,
        grace=timedelta(seconds=settings.billing_grace_seconds),
        chunk_size=settings.billing_chunk_size,
        events_topic=settings.events_topic,
        events_partitions=settings.events_partitions,
    )
    with (
        closing(database),
        closing(clickhouse),
        ThreadPoolExecutor(ACTIVITY_THREADS, thread_name_prefix="activity") as executor,
        ThreadPoolExecutor(METER_THREADS, thread_name_prefix="meters") as meters_executor,
        ThreadPoolExecutor(
            WEBHOOK_THREADS + FAILING_WEBHOOK_THREADS, thread_name_prefix="webhooks"
        ) as webhooks_executor,
    ):
        meters = make_meters_worker(
            client,
            MeterActivities(database, clickhouse, settings),
            InvariantActivities(database, settings),
            meters_executor,
        )
        deliveries = DeliveryDoors(
            database=database, clock=lambda: datetime.now(UTC), allow_private=settings.webhooks_allow_private
        )
        webhooks, failing = (
            make_webhooks_worker(client, deliveries, webhooks_executor, task_queue=task_queue, threads=threads)
            for task_queue, threads in WEBHOOK_QUEUES.items()
        )
        async with make_worker(client, doors, executor), meters, webhooks, failing:
            for schedule_id in FORMER_SCHEDULES:
                await remove_schedule(client, schedule_id)
            await ensure_schedule(
                client,
                schedule_id=PROOF_SCHEDULE,
                workflow=PROVE_METERS,
                argument=ProofRequest(),
                task_queue=METERS_TASK_QUEUE,
                every_seconds=settings.proof_seconds,
            )
            await ensure_schedule(
                client,
                schedule_id=INVARIANTS_SCHEDULE,
                workflow=CHECK_INVARIANTS,
                argument=InvariantPlace(),
                task_queue=METERS_TASK_QUEUE,
                every_seconds=settings.proof_seconds,
            )
            log.info("billing worker runs", sweep_seconds=settings.billing_sweep_seconds)
            await _until(stop, asyncio.create_task(_look(client, doors, settings)))
            log.info("billing worker ends")


async def _look(client: Client, doors: Doors, settings: Settings) -> None:
    """Start what waits and watch alerts, until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(start_waiting(client, doors, sweep_seconds=settings.billing_sweep_seconds))
        group.create_task(watch_alerts(doors, shards=settings.flow_shards))


async def _until(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait for `stop` beside a task that has no end; should that fail, so does this."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        stopped.cancel()
        task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
