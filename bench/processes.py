"""CPU time of a running stack, by part, from /proc of its whole tree of processes."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PARTS = {
    "ingestion_api": "api",
    "billing_workflows": "worker",  # before the flow, whose name is a part of its
    "flows": "flow",
    "kafka.Kafka": "broker",
    "clickhouse_front": "clickhouse",
    "postgres": "postgres",
    "temporal": "temporal",
}


def cpu_seconds(root: int) -> dict[str, float]:
    """Seconds of CPU that each part has used so far: its processes, their threads and children that ended."""
    seconds: dict[str, float] = defaultdict(float)
    for process_id, part in _tree(root, "supervisor"):
        fields = _read(process_id, "stat").rpartition(")")[2].split()
        if fields:
            seconds[part] += sum(map(int, fields[11:15])) / TICKS_A_SECOND
    return dict(seconds)


def _tree(process_id: int, part: str) -> Iterator[tuple[int, str]]:
    """The process and all below it; a child belongs to its parent's part unless it is known as another."""
    command = _read(process_id, "cmdline").split("\0")
    known = next((name for mark, name in PARTS.items() if any(mark in word for word in command[:1] + command[2:])), "")
    part = known or part
    yield process_id, part
    for task in Path(f"/proc/{process_id}/task").glob("*"):
        for child in _read(process_id, f"task/{task.name}/children").split():
            yield from _tree(int(child), part)


def _read(process_id: int, name: str) -> str:
    """A file of /proc; empty when the process is gone."""
    try:
        return Path(f"/proc/{process_id}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
