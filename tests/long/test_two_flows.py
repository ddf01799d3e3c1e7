"""Two flows on one shard, each stopped and let go again under load: one of them ends, and nothing counts twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.long.dev import OwnDev
from tests.long.exact import check_exact, prepare
from tests.long.load import Load
from tests.oracle.wire import wait_counted, wait_for

LONG_ROUNDS = 6
FENCED = "shard.fenced"


@contextmanager
def rival(dev: OwnDev, log: Path) -> Generator[subprocess.Popen[bytes]]:
    """A second flow of the same shard, which nobody starts again."""
    flow = dev.process("flow")
    assert flow is not None
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "flows"], env=flow.environ(), stdout=output, stderr=output, cwd=flow.cwd()
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()  # it may be a stopped one


def fenced(*logs: Path) -> int:
    """How often a flow has ended because another one owns its shard."""
    return sum(log.read_text(encoding="utf-8").count(FENCED) for log in logs)


@pytest.mark.parametrize("rounds", [1, pytest.param(LONG_ROUNDS, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_the_loser_of_two_flows_stops_and_sums_stay_exact(tmp_path: Path, rounds: int) -> None:
    data_dir = tmp_path / "dev"
    data_dir.mkdir()
    own_log = data_dir / "logs" / "flow.log"
    source = random.Random(11)
    with OwnDev(data_dir) as dev, dev.client() as api:
        load = Load(dev.client, seed=11)
        prepare(api, load.ledger)
        load.start()
        for number in range(rounds):
            time.sleep(source.uniform(0.0, 0.5))
            wait_for(lambda: dev.process("flow"), "the flow runs")
            stopped = dev.process("flow")
            assert stopped is not None
            log, before = tmp_path / f"rival-{number}.log", fenced(own_log)
            with rival(dev, log) as other:
                stopped.suspend()  # wherever it stands: between the stores, or within a transaction
                time.sleep(source.uniform(0.2, 1.0))  # the rival starts meanwhile, and takes over what it finds
                stopped.resume()
                wait_for(lambda: fenced(own_log, log) > before, "one of the two is fenced")  # noqa: B023 - waited for here
                if other.poll() is None and number % 2 == 0:
                    os.kill(other.pid, signal.SIGSTOP)
                    wait_counted(api, ["calls"])  # by the other alone
                    os.kill(other.pid, signal.SIGCONT)
                    wait_for(lambda: not load.faults and fenced(own_log, log) > before, "the load goes on")  # noqa: B023
        load.stop()
        check_exact(dev, api, load.ledger)
