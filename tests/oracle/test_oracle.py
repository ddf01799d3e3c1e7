"""What the API answers about any traffic is what an oracle in plain decimals says."""

import os
from contextlib import suppress

import psutil
import pytest
from hypothesis import Phase, given, note, seed, settings

from tests.oracle.player import Player
from tests.oracle.scripts import Script, scripts
from tests.support.services import Services

FEW = 6
MANY = int(os.environ.get("METERLINE_LONG_EXAMPLES", "200"))
LONG_SEED = int(os.environ.get("METERLINE_LONG_SEED", "1"))
#: With shrinking, which plays the script again and again.
FAILING_SECONDS = 900
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


def play(services: Services, script: Script) -> None:
    note(str(script))
    with services.client(services.new_tenant_key()) as api:
        Player(api, lambda: kill_flow(services)).play(script)


def kill_flow(services: Services) -> None:
    for child in psutil.Process(services.process_id).children():
        with suppress(psutil.NoSuchProcess):  # one that was killed already, and is being started again
            if "flows" in child.cmdline():
                child.kill()


@pytest.mark.timeout(FAILING_SECONDS)
@settings(max_examples=FEW, derandomize=True, database=None, phases=PHASES)
@given(script=scripts())
def test_every_answer_is_the_oracles(services: Services, script: Script) -> None:
    play(services, script)


@pytest.mark.long
@pytest.mark.timeout(FAILING_SECONDS + 20 * MANY)
@seed(LONG_SEED)
@settings(max_examples=MANY, database=None, phases=PHASES)
@given(script=scripts(max_steps=16, max_events=40, kills=True))
def test_every_answer_is_the_oracles_for_longer_traffic_and_killed_flows(services: Services, script: Script) -> None:
    play(services, script)
