"""How many invoices an hour: real PostgreSQL, ClickHouse and Temporal, subscriptions with five usage lines each.

`python -m bench.billing [--subscriptions 20000] [--workers 2]` on servers of its own, or those that METERLINE_… names.
It makes databases and a namespace of its own, fills them, lets the workers bill one month, and drops the databases
again. The clock runs from the moment at which all of it is due until the last invoice is finalized, whoever starts the
sweeps. Every period is proven against its raw events, as always. What each part used of the processors is told beside
it, since that depends less on what else the machine does.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, RegisterNamespaceRequest
from temporalio.client import Client

from bench.processes import cpu_seconds
from infra.clickhouse.client import connect as connect_clickhouse
from infra.local.stack import running_stack
from infra.migrate import migrate
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, connect
from infra.settings import Settings
from schemas.ids import Prefix, new_id
from schemas.workflows import BILLING_TASK_QUEUE

METERS = 5
EVENTS_A_LINE = 2
EVENT_COLUMNS = [
    *("tenant_no", "hash", "kafka_partition", "kafka_offset", "kafka_index", "shard", "seq", "received_at"),
    *("occurred_at", "source", "id", "type", "subject", "data", "extensions", "customer_no", "status", "code"),
]
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
NOT_YET = datetime(2100, 1, 1, tzinfo=UTC)  # until the workers run, and the measurement begins
NAMESPACE_SECONDS = 10
LOOK_SECONDS = 0.2  # between two looks at the workers' memory, and at the invoices
READY_SECONDS = 60  # that workers may take until they poll
MAX_SECONDS = 3600  # that all invoices may take


def main() -> None:
    options = argparse.ArgumentParser(
        prog="meterline bench billing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--subscriptions", type=int, default=20_000)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's own user has to reach its folder below
        with running_stack(Settings(data_dir=Path(folder)), console.print, console) as stack:
            measure(stack.settings, given.subscriptions, given.workers)


def measure(servers: Settings, subscriptions: int, workers: int) -> None:
    """Fill, bill, check and print, on databases that are dropped again."""
    settings, name = own_stores(servers)
    try:
        tenant_id = fill(settings, subscriptions)
        seconds, most_mib, used = asyncio.run(run(settings, workers, subscriptions))
        check(settings, tenant_id, subscriptions)
        rate = subscriptions / seconds
        print(f"{subscriptions:,} invoices of {METERS} usage lines in {seconds:.1f} s with {workers} workers")
        print(f"{rate:,.0f} invoices/s = {rate * 3600 / 1e6:.2f} M an hour")
        parts = ", ".join(f"{part} {each / subscriptions * 1000:.2f}" for part, each in used.items())
        print(f"{sum(used.values()) / subscriptions * 1000:.2f} ms of CPU an invoice: {parts}")
        print(f"a worker had at most {most_mib[0]:.0f} MiB before the run and {most_mib[1]:.0f} MiB during it")
    finally:
        drop(settings, name)


def own_stores(settings: Settings) -> tuple[Settings, str]:
    """Databases and a namespace of one's own beside whatever the servers hold."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    with connect(settings.postgres_dsn) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    own = settings.model_copy(
        update={
            "postgres_dsn": urlsplit(settings.postgres_dsn)._replace(path=f"/{name}").geturl(),
            "clickhouse_url": urlsplit(settings.clickhouse_url)._replace(path=f"/{name}").geturl(),
            "temporal_namespace": name,
            "billing_sweep_seconds": 1,  # so that what is due waits hardly
        }
    )
    with connect(own.postgres_dsn) as connection, closing(connect_clickhouse(own.clickhouse_url)) as clickhouse:
        migrate(connection, clickhouse)
    return own, name


def drop(settings: Settings, name: str) -> None:
    with closing(connect_clickhouse(settings.clickhouse_url)) as clickhouse:
        clickhouse.command(f"DROP DATABASE {name}")
    with connect(urlsplit(settings.postgres_dsn)._replace(path="/postgres").geturl()) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def fill(settings: Settings, count: int) -> str:
    """A tenant whose subscriptions have paid their first fees and have a month of usage that is not billed yet."""
    tenant_id = new_id(Prefix.TENANT)
    with connect(settings.postgres_dsn) as connection, connection.transaction():
        tenant_no, meter_nos = fill_catalogue(connection, settings, tenant_id)
        customer_nos = fill_subscriptions(connection, tenant_id, count)
    with connect(settings.postgres_dsn) as connection:
        connection.execute("ANALYZE")
    fill_usage(settings, tenant_no, meter_nos, customer_nos)
    return tenant_id


def fill_catalogue(connection: PgConnection, settings: Settings, tenant_id: str) -> tuple[int, list[int]]:
    row = connection.execute(
        "INSERT INTO tenants (id, name, created_at) VALUES (%s, 'bench', %s) RETURNING no", (tenant_id, START)
    ).fetchone()
    assert row is not None
    meter_nos: list[int] = []
    for number in range(METERS):
        meter = connection.execute(
            "INSERT INTO meters (id, tenant_id, key, name, event_type, aggregation, value, created_at)"
            " VALUES (%s, %s, %s, 'm', %s, 'sum', '$.n', %s) RETURNING no",
            (new_id(Prefix.METER), tenant_id, f"m{number}", f"e{number}", START),
        ).fetchone()
        assert meter is not None
        meter_nos.append(meter["no"])
    tiers = [
        {"up_to": "10", "unit_amount": "0.5"},
        {"up_to": "100", "unit_amount": "0.4"},
        {"up_to": None, "unit_amount": "0.3"},
    ]
    usage = {"type": "usage", "model": "graduated", "tiers": tiers}
    prices = [{"key": f"p{number}", "meter": f"m{number}", **usage} for number in range(METERS)]
    connection.execute(
        "INSERT INTO plans (id, tenant_id, key, name, currency, created_at) VALUES ('pln', %s, 'p', 'p', 'USD', %s)",
        (tenant_id, START),
    )
    connection.execute(
        "INSERT INTO plan_versions (plan_id, version, prices, entitlements, created_at)"
        " VALUES ('pln', 1, %s, '[]', %s)",
        (jsonb(prices), START),
    )
    connection.execute("INSERT INTO shards (shard, next_seq) VALUES (0, 2)")
    for partition in range(settings.events_partitions):
        connection.execute(
            "INSERT INTO shard_offsets (topic, partition, shard, stored_until) VALUES (%s, %s, 0, %s)",
            (settings.events_topic, partition, END + timedelta(days=1)),
        )
    return row["no"], meter_nos


def fill_subscriptions(connection: PgConnection, tenant_id: str, count: int) -> list[int]:
    ids = [new_id(Prefix.CUSTOMER) for _ in range(count)]
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY customers (id, tenant_id, external_id, name, currency, timezone, created_at) FROM STDIN"
        ) as copy,
    ):
        for customer_id in ids:
            copy.write_row((customer_id, tenant_id, customer_id, "c", "USD", "UTC", START))
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY subscriptions (id, tenant_id, customer_id, plan_id, plan_version, status, currency, timezone,"
            " start_at, billing_anchor, alignment, billed_until, next_bill_at, created_at) FROM STDIN"
        ) as copy,
    ):
        for customer_id in ids:
            terms = ("pln", 1, "active", "USD", "UTC", START, START, "anniversary", START, NOT_YET, START)
            copy.write_row((new_id(Prefix.SUBSCRIPTION), tenant_id, customer_id, *terms))
    connection.execute(
        "INSERT INTO subscription_phases (subscription_id, no, starts_at, plan_id, plan_version, created_at)"
        " SELECT id, 0, start_at, plan_id, plan_version, created_at FROM subscriptions"
    )
    return [row["no"] for row in connection.execute("SELECT no FROM customers ORDER BY no")]


def fill_usage(settings: Settings, tenant_no: int, meter_nos: list[int], customer_nos: list[int]) -> None:
    """Two events a line, in two minutes, each with its window."""
    with closing(connect_clickhouse(settings.clickhouse_url)) as clickhouse:
        for number, meter_no in enumerate(meter_nos):
            events: list[list[object]] = []
            minutes: list[list[object]] = []
            for customer_no in customer_nos:
                for event in range(EVENTS_A_LINE):
                    at = START + timedelta(hours=event * 50, minutes=customer_no % 60)
                    identity = (number << 96 | event << 64 | customer_no).to_bytes(16, "big")
                    place = [tenant_no, identity, 0, customer_no, event, 0, 1, at, at, "api", "id"]
                    events.append([*place, f"e{number}", "s", '{"n":60}', "", customer_no, "counted", ""])
                    minutes.append([meter_no, 1, customer_no, at, [], 0, 1, 1, Decimal(60)])
            clickhouse.insert("events", events, column_names=EVENT_COLUMNS)
            clickhouse.insert("usage_minutes", minutes)


async def run(settings: Settings, workers: int, count: int) -> tuple[float, tuple[float, float], Mapping[str, float]]:
    """Seconds from the moment at which everything is due, with workers that run already, until `count` invoices are
    finalized; what the largest of the workers had in memory before and meanwhile, in MiB; and the seconds of CPU of
    each part of what this process started."""
    client = await Client.connect(settings.temporal_address)
    retention = Duration()
    retention.FromTimedelta(timedelta(days=1))
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=settings.temporal_namespace, workflow_execution_retention_period=retention)
    )
    await asyncio.sleep(NAMESPACE_SECONDS)  # the server's parts learn of a new namespace one after another
    client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
    environment = {f"METERLINE_{key.upper()}": str(value) for key, value in settings.model_dump().items()}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "billing_workflows", env={**os.environ, **environment}
        )
        for _ in range(workers)
    ]
    try:
        await wait_for_pollers(client, workers)
        sizes = [resident_mib(processes)]
        watching = asyncio.create_task(watch_sizes(processes, sizes))
        before = cpu_seconds(os.getpid())
        seconds = await asyncio.to_thread(bill_all, settings, count)
        after = cpu_seconds(os.getpid())
        watching.cancel()
        return seconds, (sizes[0], max(sizes)), {part: after[part] - before.get(part, 0) for part in sorted(after)}
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()


async def wait_for_pollers(client: Client, workers: int) -> None:
    """Until every worker asks for work."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=BILLING_TASK_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    deadline = time.monotonic() + READY_SECONDS
    while (
        len({each.identity for each in (await client.workflow_service.describe_task_queue(request)).pollers}) < workers
    ):
        assert time.monotonic() < deadline, f"not all {workers} workers run after {READY_SECONDS} s"
        await asyncio.sleep(LOOK_SECONDS)


def bill_all(settings: Settings, count: int) -> float:
    """Make everything due, and wait until that many invoices are finalized: the seconds between the two."""
    with connect(settings.postgres_dsn) as connection:
        connection.execute("UPDATE subscriptions SET next_bill_at = %s", (END,))
        connection.commit()
        started = time.monotonic()
        while True:
            row = connection.execute("SELECT count(*) AS done FROM invoices WHERE finalized_at IS NOT NULL").fetchone()
            connection.commit()
            assert row is not None
            seconds = time.monotonic() - started
            if row["done"] >= count:
                return seconds
            assert seconds < MAX_SECONDS, f"{row['done']} of {count} invoices after {MAX_SECONDS} s"
            time.sleep(LOOK_SECONDS)


async def watch_sizes(processes: Sequence[asyncio.subprocess.Process], sizes: list[float]) -> None:
    """Note what the largest of these has in memory again and again, until cancelled."""
    while True:
        sizes.append(resident_mib(processes))
        await asyncio.sleep(LOOK_SECONDS)


def resident_mib(processes: Sequence[asyncio.subprocess.Process]) -> float:
    return max(psutil.Process(process.pid).memory_info().rss for process in processes) / 2**20


def check(settings: Settings, tenant_id: str, count: int) -> None:
    """Every subscription has one invoice of the one right amount: 10 x 0.5 + 90 x 0.4 + 20 x 0.3, five times."""
    with connect(settings.postgres_dsn) as connection:
        row = connection.execute(
            "SELECT count(*) AS invoices, count(DISTINCT subscription_id) AS subscriptions, min(total_minor) AS least,"
            " max(total_minor) AS most, count(DISTINCT number) AS numbers FROM invoices WHERE tenant_id = %s",
            (tenant_id,),
        ).fetchone()
    right = {"invoices": count, "subscriptions": count, "least": 23_500, "most": 23_500, "numbers": count}
    assert row == right, f"{row} is not {right}"


if __name__ == "__main__":
    main()
