"""What is killed comes back with its data; what is left over is ended; two stacks never meet."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.local import leftovers
from infra.settings import Settings
from tests.infra.local import marks
from tests.infra.local.own_stack import OwnStack, wait_for

NOBODY = 65_534


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStack]:
    stack = OwnStack(tmp_path_factory.mktemp("own") / "stack")
    yield stack
    stack.stop()
    leftovers.end(stack.data_dir)


@pytest.fixture(scope="module")
def addresses(own: OwnStack) -> Settings:
    return own.settings()


def test_two_stacks_run_side_by_side(stack: Settings, addresses: Settings) -> None:
    for name in ("postgres_dsn", "clickhouse_url", "kafka_bootstrap", "temporal_address"):
        assert getattr(stack, name) != getattr(addresses, name)
    mark = marks.leave(addresses)
    assert all(has(addresses, mark) for has in marks.STORES.values())
    for has in marks.STORES.values():
        with pytest.raises(Exception, match=r"(?i)marks|not found|timed out|unknown|no rows|leader") as caught:
            assert not has(stack, mark), "the other stack has it"
        assert not isinstance(caught.value, AssertionError)


def test_a_second_stack_on_the_same_directory_is_refused(own: OwnStack, addresses: Settings) -> None:
    command = [sys.executable, "-m", "infra.local", "--data-dir", str(own.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "local.data_dir_in_use" in done.stderr
    assert str(own.process.pid) in done.stderr
    assert "Traceback" not in done.stderr
    assert addresses.postgres_dsn  # and the first goes on


@pytest.mark.parametrize("name", list(marks.STORES))
def test_a_killed_server_comes_back_where_it_was_with_what_it_had(
    own: OwnStack, addresses: Settings, name: str
) -> None:
    mark = marks.leave(addresses)
    killed = own.children()[name]
    killed.kill()
    wait_for(lambda: own.children()[name].pid != killed.pid, f"{name} is started again")
    wait_for(lambda: marks.STORES[name](addresses, mark), f"{name} has what it had")
    assert f"{name} ended by signal 9; starting it again in" in own.log()


def test_a_killed_stack_leaves_nothing_and_starts_again_with_everything(own: OwnStack, addresses: Settings) -> None:
    mark = marks.leave(addresses)
    own.kill()
    wait_for(lambda: not leftovers.find(own.data_dir), "the children have gone with their parent")
    again = OwnStack(own.data_dir)
    try:
        settings = again.settings()
        assert settings == addresses  # on the same ports
        for name, has in marks.STORES.items():
            assert has(settings, mark), name
        # Now the warden too: nobody is left to end the children but the next start.
        warden = next(
            child for child in psutil.Process(again.process.pid).children() if "warden" in str(child.cmdline())
        )
        again.process.send_signal(signal.SIGSTOP)
        warden.kill()
        again.kill()
        assert len(again.children()) == len(marks.STORES)
        third = OwnStack(own.data_dir)
        try:
            settings = third.settings()
            assert "which a killed stack left behind" in third.log()
            for name, has in marks.STORES.items():
                assert has(settings, mark), name
        finally:
            assert third.stop(signal.SIGTERM) == 0
    finally:
        again.stop()
    assert not leftovers.find(own.data_dir)


def _as_nobody() -> list[str]:
    """A prefix that runs a command as an ordinary user. It may read everything, since Python itself may lie in a
    directory of root's; it may write only its own."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv can't become an ordinary user")
    read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *read]


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """A directory of an ordinary user's own, in one that everybody may pass through."""
    home = Path(tempfile.mkdtemp(prefix="meterline-home-"))
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    yield home
    shutil.rmtree(home)


def test_an_ordinary_user_runs_it_and_ctrl_c_ends_it(home_of_nobody: Path) -> None:
    cache_dir = Settings().cache_dir.expanduser()
    environment = {"HOME": str(home_of_nobody), "METERLINE_CACHE_DIR": str(cache_dir)}
    own = OwnStack(home_of_nobody / "stack", _as_nobody(), **environment)
    try:
        settings = own.settings()
        mark = marks.leave(settings)
        assert all(has(settings, mark) for has in marks.STORES.values())
        if os.geteuid() == 0:
            assert {process.uids().real for process in own.children().values()} == {NOBODY}
    finally:
        status = own.stop()
    assert status == 0
    assert not leftovers.find(own.data_dir)
