"""Due work in a process that dies by SIGKILL at a crash point."""

import os
import signal
import subprocess
import sys

from tests.support.billing import World


def kill_at(world: World, point: str, kind: str, day: str, *ids: str) -> None:
    """Run a kind of due work of these in a process that is killed at the point."""
    environment = os.environ | {
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
        "METERLINE_CRASH_AT": point,
    }
    arguments = [sys.executable, "-m", "tests.support.due_once", kind, f"{day}T00:00:00Z", *ids]
    assert subprocess.run(arguments, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
