"""SIGKILL of any process at any time, under load: what was acknowledged is counted, to the digit, and nothing else."""

import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.long.dev import OwnDev
from tests.long.exact import LATER, check_exact, prepare, set_meter
from tests.long.kills import TARGETS, Killer
from tests.long.load import Load

#: Of the long suite: so many kills at least, in rounds that each end with a comparison.
LONG_KILLS = int(os.environ.get("METERLINE_LONG_KILLS", "100"))
LONG_SECONDS = 60 * int(os.environ.get("METERLINE_LONG_MINUTES", "25"))
LONG_SEED = int(os.environ.get("METERLINE_LONG_SEED", "1"))
KILLS_A_ROUND = 10


@pytest.mark.timeout(300)
def test_a_kill_of_each_process_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with OwnDev(tmp_path) as dev, dev.client() as api:
        load = Load(dev.client, seed=7)
        killer = Killer(dev, load, random.Random(7))
        prepare(api, load.ledger)
        load.start()
        for targets in (("flow", "clickhouse"), ("broker", "api"), ("postgres", "worker")):
            killer.strike(targets)
            set_meter(load, api, LATER[killer.kills % len(LATER)])
        load.stop()
        check_exact(dev, api, load.ledger)
        assert killer.kills == len(TARGETS), "something did not live when it was to be killed"
        say(killer.table())


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS + 600)
def test_a_hundred_kills_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    with OwnDev(tmp_path) as dev, dev.client() as api:
        load = Load(dev.client, seed=LONG_SEED)
        killer = Killer(dev, load, random.Random(LONG_SEED))
        prepare(api, load.ledger)
        while killer.kills < LONG_KILLS and time.monotonic() < deadline:
            load.start()
            wanted = min(killer.kills + KILLS_A_ROUND, LONG_KILLS)
            set_meter(load, api, LATER[killer.kills // KILLS_A_ROUND % len(LATER)])
            while killer.kills < wanted and time.monotonic() < deadline:
                killer.strike_at_random()
            load.stop()
            check_exact(dev, api, load.ledger)
            say(f"{killer.kills} kills, {len(load.ledger.entries)} events: exact")
        say(killer.table())
        assert killer.kills >= LONG_KILLS, f"only {killer.kills} kills in {LONG_SECONDS} s"


def say(text: str) -> None:
    """Shown by `pytest -s`, and with a failure."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
