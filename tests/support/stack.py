"""One embedded stack for a whole test run, shared by all pytest-xdist workers.

Each worker holds a shared lock on one file. The stack runs in a process of its own and stops when nobody holds that
lock any more: the kernel drops the locks of a worker that crashed, so nothing is left counted wrongly.
"""

import fcntl
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import psycopg

from infra.settings import Settings

START_LIMIT_SECONDS = 110


@contextmanager
def shared_stack(shared_dir: Path) -> Generator[Settings]:
    """Settings of the run's stack; the first caller starts it. Addresses given as `METERLINE_…` are used instead."""
    users = shared_dir / "stack.users"
    with users.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with (shared_dir / "stack.starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            addresses = _addresses(shared_dir, users)
        yield Settings(**{name: value for name, value in addresses.items() if name in Settings.model_fields})


def fresh_databases(settings: Settings) -> Settings:
    """The same servers with databases and topics of one's own, so that tests don't see each other's rows."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    client = clickhouse_connect.get_client(dsn=settings.clickhouse_url)
    client.command(f"CREATE DATABASE {name}")
    client.close()
    return settings.model_copy(
        update={
            "postgres_dsn": urlsplit(settings.postgres_dsn)._replace(path=f"/{name}").geturl(),
            "clickhouse_url": urlsplit(settings.clickhouse_url)._replace(path=f"/{name}").geturl(),
            "events_topic": f"{name}.{settings.events_topic}",
            "balances_topic": f"{name}.{settings.balances_topic}",
            "system_topic": f"{name}.{settings.system_topic}",
        }
    )


def _addresses(shared_dir: Path, users: Path) -> dict[str, str]:
    answer = shared_dir / "stack.addresses"
    if not answer.exists():
        _start(answer, users, shared_dir / "stack.log")
    return json.loads(answer.read_text(encoding="utf-8"))


def _start(answer: Path, users: Path, log: Path) -> None:
    """Start the stack as a process of nobody's: it outlives this worker, and ends when `users` is let go."""
    data_dir = tempfile.mkdtemp(prefix="meterline-stack-")
    fresh = answer.with_suffix(".new")
    options = ["--data-dir", data_dir, "--ephemeral", "--while-locked", str(users)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    process_id = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "infra.local", *options],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(fresh), flags, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(log), flags, 0o600),
        ],
        setsid=True,
    )
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not fresh.exists() or not fresh.read_text(encoding="utf-8").endswith("\n"):
        ended, _ = os.waitpid(process_id, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"the stack did not start:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.05)
    fresh.replace(answer)
