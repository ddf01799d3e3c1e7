"""Processes that a killed stack left behind, found by a mark in their environment and ended.

Every child of a stack, and whatever a child starts, inherits the mark: so no list of process ids has to survive a
kill -9, and there is no moment in which a child exists but nobody has written it down.
"""

import os
import signal
from pathlib import Path

import psutil

DATA_DIR_MARK = "METERLINE_STACK_DATA_DIR"
STOP_SIGNAL_MARK = "METERLINE_STACK_STOP_SIGNAL"
END_LIMIT_SECONDS = 10


def mark(data_dir: Path, stop_signal: signal.Signals = signal.SIGTERM) -> dict[str, str]:
    """What to add to the environment of a child of the stack in `data_dir`."""
    return {DATA_DIR_MARK: str(data_dir), STOP_SIGNAL_MARK: str(int(stop_signal))}


def find(data_dir: Path) -> list[tuple[psutil.Process, signal.Signals]]:
    """The living processes of the stack in `data_dir`, each with the signal that asks it to stop."""
    found: list[tuple[psutil.Process, signal.Signals]] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
        except (psutil.Error, OSError):  # gone by now, or another user's: none of ours
            continue
        if environment.get(DATA_DIR_MARK) == str(data_dir):
            found.append((process, signal.Signals(int(environment.get(STOP_SIGNAL_MARK, signal.SIGTERM)))))
    return found


def end(data_dir: Path, limit_seconds: float = END_LIMIT_SECONDS) -> list[str]:
    """Stop all processes of the stack in `data_dir`: asked first, killed after `limit_seconds`. Returns their names."""
    found = find(data_dir)
    names = [_name(process) for process, _ in found]
    for process, stop_signal in found:
        _send(process, stop_signal)
    _, stubborn = psutil.wait_procs([process for process, _ in found], timeout=limit_seconds)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=limit_seconds)
    return names


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.Error:
        return str(process.pid)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # it ended by itself
