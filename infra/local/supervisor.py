"""Keeps components alive: starts them side by side, waits for a real answer, starts them again when they die.

One thread a component. A component that dies before it ever answered is tried `MAX_FIRST_TRIES` times; one that has
answered is started again for as long as the stack runs, with a pause that grows from `FIRST_PAUSE_SECONDS` to
`LONGEST_PAUSE_SECONDS` and is forgotten after `STEADY_SECONDS` of life.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from infra.local import leftovers, ports, warden
from infra.local.component import Component, without_password
from infra.local.errors import StackError

MAX_FIRST_TRIES = 3
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 4.0
STEADY_SECONDS = 60
PROBE_PAUSE_SECONDS = 0.05
WATCH_PAUSE_SECONDS = 0.1
SETTLE_SECONDS = 2.0  # what can't be asked counts as up when it has lived this long
PROBE_LIMIT_SECONDS = 5.0
PREPARING_SECONDS = 5.0  # what a preparation that is under way may take once everything stops
KILLED_SECONDS = 5.0  # what a killed process may take to be gone
MAX_LOG_BYTES = 16 * 1024 * 1024  # a larger log is put aside as `.1` when its component starts
LOG_TAIL_BYTES = 2_000
PRIVATE_UMASK = 0o077  # data is its owner's alone, also where others may pass through the directory above

Report = Callable[[str], None]


class Supervisor:
    """Owns the child processes of one stack. `report` gets one short line a change; it is called from threads."""

    def __init__(self, data_dir: Path, report: Report) -> None:
        self._data_dir = data_dir
        self._report = report
        self._kept: dict[str, _Kept] = {}
        self._closing = False
        self._warden = warden.start(data_dir)
        self._warden_watch = threading.Thread(target=self._keep_warden, name="keep-warden", daemon=True)
        self._warden_watch.start()

    def start(self, component: Component) -> None:
        """Start a component in its own thread and return at once."""
        kept = _Kept(component, self._data_dir, self._report)
        self._kept[component.name] = kept
        kept.thread.start()

    def wait_until_ready(self, names: Iterable[str], limit_seconds: float) -> dict[str, str]:
        """Wait until each named component has answered; returns their versions.

        Raises StackError when one has given up or the time is over, with the end of its log.
        """
        deadline = time.monotonic() + limit_seconds
        versions: dict[str, str] = {}
        for name in names:
            kept = self._kept[name]
            if not kept.settled.wait(max(0.0, deadline - time.monotonic())):
                raise StackError("local.not_ready", f"{name} did not answer in time. {kept.log_tail()}")
            if kept.failure:
                raise StackError("local.not_started", f"{name} did not start: {kept.failure} {kept.log_tail()}")
            versions[name] = kept.version
        return versions

    def process_id(self, name: str) -> int | None:
        """The process that runs as this component now; None between two lives."""
        process = self._kept[name].process
        return process.pid if process else None

    def stop(self, names: Iterable[str]) -> None:
        """Stop these components side by side: asked first, killed when they don't stop in their time.

        One that is still being prepared, e.g. downloaded, is left to the end of this process after PREPARING_SECONDS.
        """
        kept = [self._kept[name] for name in names if name in self._kept]
        for one in kept:
            one.ask_to_stop()
        for one in kept:
            one.join()

    def close(self) -> None:
        """Stop what still runs, services first, then let the warden make sure that nothing is left."""
        self.stop([name for name, kept in self._kept.items() if kept.component.uses_others])
        self.stop(list(self._kept))
        self._closing = True
        assert self._warden.stdin is not None
        self._warden.stdin.close()
        self._warden_watch.join()

    def _keep_warden(self) -> None:
        while True:
            self._warden.wait()
            if self._closing:
                return
            self._report("the warden ended; starting it again")
            self._warden = warden.start(self._data_dir)


class _Kept:
    """One component, its thread and its present process."""

    def __init__(self, component: Component, data_dir: Path, report: Report) -> None:
        self.component = component
        self.settled = threading.Event()  # it has answered once, or has given up
        self.failure = ""
        self.version = ""  # as it last answered; a server may answer without one
        self._has_answered = False
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._keep, name=f"keep-{component.name}", daemon=True)
        self._stopping = threading.Event()
        self._data_dir = data_dir
        self._report = report
        self._log_path = data_dir / "logs" / f"{component.name}.log"

    def ask_to_stop(self) -> None:
        """Let the thread stop the process and end."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until the thread has stopped the process, for as long as that may take."""
        self.thread.join(PREPARING_SECONDS if self.process is None else self.component.stop_limit_seconds)
        if self.process is not None:
            self.thread.join(KILLED_SECONDS)
        if self.thread.is_alive():
            self._report(f"{self.component.name} is left as it is: it does not stop")

    def log_tail(self) -> str:
        """The path of the component's log and its last lines."""
        try:
            text = self._log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return f"The end of {self._log_path}:\n{text}"

    def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        tries = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            tries += 1
            ending = self._live_once()
            if self._stopping.is_set():
                return
            if not self._has_answered and tries >= MAX_FIRST_TRIES:
                self.failure = ending
                self.settled.set()
                return
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._report(f"{self.component.name} {ending}; starting it again in {pause:g} s")
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _live_once(self) -> str:
        """One life of the process, from preparation to its end. Returns how it ended, in words."""
        try:
            self.component.prepare()
            if self._stopping.is_set():
                return "was stopped before it was started"
            process = self._spawn()
        except (StackError, OSError, subprocess.SubprocessError) as error:
            return f"could not be started: {error}"
        self.process = process
        try:
            self._await_answer(process)
            while process.poll() is None and not self._stopping.wait(WATCH_PAUSE_SECONDS):
                pass
        finally:
            _end(process, self.component)
            self.process = None
        return f"ended {_describe(process.returncode)}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        component = self.component
        self._log_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        environment = {
            **os.environ,
            **component.environment,
            **leftovers.mark(self._data_dir, component.stop_signal),
        }
        user = component.system_user
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                list(component.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._data_dir,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops things in order
                user=user,
                group=user,
                extra_groups=[] if user else None,
                umask=PRIVATE_UMASK,
            )

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the server has answered a real question, or has ended, or is to be stopped."""
        component = self.component
        started = time.monotonic()
        while process.poll() is None and not self._stopping.is_set():
            version = _ask(component, time.monotonic() - started)
            if version is not None:
                restarted = "again " if self._has_answered else ""
                self.version, self._has_answered = version, True
                self.settled.set()
                where = f" at {without_password(component.address)}" if component.address else ""
                self._report(f"{component.name} is up {restarted}after {time.monotonic() - started:.1f} s{where}")
                return
            self._stopping.wait(PROBE_PAUSE_SECONDS)


def _ask(component: Component, age_seconds: float) -> str | None:
    """The server's version, or None while it does not answer."""
    if component.probe is None:
        return "running" if age_seconds > SETTLE_SECONDS else None
    if component.port and ports.is_free(component.port):
        return None
    try:
        return component.probe(component.address, PROBE_LIMIT_SECONDS)
    except Exception:  # each client library has errors of its own, and here all of them mean "not yet"
        return None


def _wait(process: subprocess.Popen[bytes], limit_seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit_seconds)


def _end(process: subprocess.Popen[bytes], component: Component) -> None:
    """End the process and whatever is left of its group, e.g. the workers of a killed service."""
    if process.poll() is None:
        _signal_group(process, component.stop_signal)
        _wait(process, component.stop_limit_seconds)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(process.pid, number)


def _describe(return_code: int) -> str:
    return f"by signal {-return_code}" if return_code < 0 else f"with status {return_code}"
