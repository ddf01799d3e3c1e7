"""Ctrl-C ends it, whatever it is doing."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from infra.local import supervisor
from infra.local.component import Component
from infra.local.supervisor import Supervisor


def test_a_preparation_that_never_ends_holds_nothing_up(tmp_path: Path) -> None:
    begun, for_ever = threading.Event(), threading.Event()
    said: list[str] = []

    def prepare() -> None:
        begun.set()
        for_ever.wait()

    own = Supervisor(tmp_path, said.append)
    own.start(Component(name="slow", command=["true"], prepare=prepare))
    assert begun.wait(30)
    closing = threading.Thread(target=own.close, daemon=True)
    closing.start()
    closing.join(2 * supervisor.PREPARING_SECONDS + 20)
    assert not closing.is_alive()
    assert any("slow is left" in line for line in said)
    for_ever.set()


PROGRAM = """
import threading
from concurrent.futures import ThreadPoolExecutor
from infra.local.signals import leave, until_stopped

pool = ThreadPoolExecutor(1)
pool.submit(threading.Event().wait)
with until_stopped():
    try:
        print("ready", flush=True)
        threading.Event().wait()
    finally:
        print("cleaning up", flush=True)
        {clean_up}
leave(0)
"""


def run(clean_up: str, *signals: signal.Signals) -> int:
    """Its exit status after these signals, one when it is ready and one when it cleans up."""
    command = [sys.executable, "-c", PROGRAM.format(clean_up=clean_up)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for number, line in zip(signals, process.stdout, strict=False):
                assert line in ("ready\n", "cleaning up\n")
                process.send_signal(number)
            return process.wait(30)
        finally:
            process.kill()


def test_one_ctrl_c_is_enough_whatever_threads_still_wait() -> None:
    assert run("pass", signal.SIGINT) == 0


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    assert run("threading.Event().wait()", signal.SIGINT, signal.SIGINT) == 130


def test_another_signal_leaves_the_clean_up_alone() -> None:
    assert run("__import__('time').sleep(0.5)", signal.SIGTERM, signal.SIGTERM) == 0
