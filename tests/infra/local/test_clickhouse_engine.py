"""The engine in a process of its own: a process has one engine."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from infra.local import clickhouse_engine
from infra.local.clickhouse_engine import MAX_IDLE_CONNECTIONS, Engine

engine = Engine(Path(sys.argv[1]))
opened = []
real = engine._open
engine._open = lambda session: opened.append(session) or real(session)
ordinary = ("default", ())
for number in range(MAX_IDLE_CONNECTIONS + 10):
    engine.query("SELECT 1", "Null", ("default", (("log_comment", str(number)),)), {})
    engine.query("SELECT 1", "Null", ordinary, {})
print(opened.count(ordinary), engine._idle_count, sum(map(len, engine._idle.values())), len(engine._idle))
engine.close()
"""


def test_sessions_that_never_come_again_take_no_place_from_one_that_does(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1 64 64 64\n", done.stderr


MERGES = """
import os, sys
from pathlib import Path
from infra.local.clickhouse_engine import Engine

engine = Engine(Path(sys.argv[1]))
engine.query("CREATE DATABASE d", "Null", ("default", ()), {})
engine.query("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a", "Null", ("d", ()), {})
engine.insert("INSERT INTO d.t (a)", "TabSeparated", ("d", ()), [b"1\\n"])
tasks = list(Path("/proc/self/task").glob("*"))
merges = [int(task.name) for task in tasks if (task / "comm").read_text().strip() == "MergeMutate"]
print(bool(merges), {os.getpriority(os.PRIO_PROCESS, number) - os.getpriority(os.PRIO_PROCESS, 0) for number in merges})
engine.close()
"""


def test_merges_yield_to_inserts_and_queries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MERGES, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True {5}\n", done.stderr
