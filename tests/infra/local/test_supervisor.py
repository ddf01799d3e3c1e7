"""A component that has answered once is started again for as long as the stack runs."""

import os
import signal
import sys
from pathlib import Path

from infra.local.component import Component
from infra.local.supervisor import MAX_FIRST_TRIES, Supervisor
from tests.infra.local.own_stack import wait_for

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


def answer_without_version(address: str, timeout_seconds: float) -> str:
    del address, timeout_seconds
    return ""


def test_a_server_that_answers_without_a_version_is_started_again_however_often_it_dies(tmp_path: Path) -> None:
    told: list[str] = []
    supervisor = Supervisor(tmp_path, told.append)
    try:
        supervisor.start(Component(name="one", command=SLEEPER, probe=answer_without_version, stop_limit_seconds=2))
        supervisor.wait_until_ready(["one"], 30)
        for life in range(1, MAX_FIRST_TRIES + 1):
            wait_for(lambda life=life: sum("one is up" in line for line in told) == life, f"life {life} has begun")
            number = supervisor.process_id("one")
            assert number is not None
            os.kill(number, signal.SIGKILL)
        wait_for(lambda: sum("one is up again" in line for line in told) == MAX_FIRST_TRIES, "it lives once more")
    finally:
        supervisor.close()
