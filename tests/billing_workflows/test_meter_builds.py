"""Builds of meters by real workers: begun by themselves, killed anywhere, exact all the same."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from infra.settings import Settings
from schemas.catalogue import MeterEntry
from tests.flows.test_builds import active_of, traffic, window_rows
from tests.support.meters import change_meter, finish_builds, make_meter, make_tenant
from tests.support.services import make_namespace
from tests.support.stack import fresh_databases
from tests.support.usage_log import WAIT_SECONDS, UsageLog, wait_for


@pytest.fixture(scope="module")
def log(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageLog]:
    settings = fresh_databases(stack)
    settings = settings.model_copy(update={"temporal_namespace": make_namespace(settings)})
    usage_log = UsageLog(settings, tmp_path_factory.mktemp("builds"))
    yield usage_log
    usage_log.close()


@contextmanager
def worker(settings: Settings, **environment: str) -> Generator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end if it still runs."""
    names = ("postgres_dsn", "clickhouse_url", "temporal_address", "temporal_namespace", "events_topic")
    given = {f"METERLINE_{name.upper()}": str(getattr(settings, name)) for name in names}
    process = subprocess.Popen([sys.executable, "-m", "billing_workflows"], env={**os.environ, **given, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_begins_builds_by_itself_and_finishes_those_of_one_that_was_killed(log: UsageLog) -> None:
    tenant_id, no = make_tenant(log.postgres)
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    early = make_meter(log.postgres, tenant_id, no, "early", group_by=("model",))
    with log.flow() as flow:
        finish_builds(log.settings)
        log.send(traffic("first", no))
        log.wait_stored(flow)
        late = [make_meter(log.postgres, tenant_id, no, f"late-{n}", group_by=("model",)) for n in range(2)]
        with worker(log.settings, METERLINE_CRASH_AT="rebuild.before_switch") as killed:
            assert killed.wait(WAIT_SECONDS) == -signal.SIGKILL
        log.send(traffic("second", no))
        changed = change_meter(log.postgres, no, late[0], group_by=())
        with worker(log.settings, METERLINE_PROOF_SECONDS="1") as last:
            wait_for(lambda: active_of(log, late[1])[1], "the second meter is built")
            wait_for(lambda: active_of(log, late[0]) == (2, True), "the changed meter is built")
            wait_for(lambda: proven(log, late) == {True}, "a schedule proves them")
            last.send_signal(signal.SIGTERM)
            assert last.wait(WAIT_SECONDS) == 0
        log.wait_stored(flow)
    assert window_rows(log, late[1]) == window_rows(log, early) != []
    assert sum(row[5] for row in window_rows(log, changed)) == sum(row[5] for row in window_rows(log, early))


def proven(log: UsageLog, meters: list[MeterEntry]) -> set[bool]:
    """What the newest proofs of these meters say; empty before each has one."""
    numbers = [meter.meter_no for meter in meters]
    rows = log.postgres.execute("SELECT meter_no, ok FROM meter_proofs WHERE meter_no = ANY(%s)", (numbers,)).fetchall()
    return {row["ok"] for row in rows} if {row["meter_no"] for row in rows} == set(numbers) else set()
