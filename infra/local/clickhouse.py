"""ClickHouse: the engine of `chdb` behind our HTTP front, in a process of its own."""

import sys
from pathlib import Path

from infra.local.component import Component, probe_of
from infra.local.ports import LOOPBACK
from infra.local.record import PASSWORD_FILE

DATABASE = "meterline"


def component(data_dir: Path, port: int, password: str) -> Component:
    """The front with the engine's data in `data_dir`/clickhouse; the database `meterline` exists when it answers."""
    home = data_dir / "clickhouse"
    return Component(
        name="clickhouse",
        address=f"http://default:{password}@{LOOPBACK}:{port}/{DATABASE}",
        command=[
            sys.executable,
            "-m",
            "infra.local.clickhouse_front",
            str(home),
            str(port),
            DATABASE,
            str(data_dir / PASSWORD_FILE),
        ],
        port=port,
        probe=probe_of("clickhouse"),
        prepare=lambda: home.mkdir(parents=True, exist_ok=True, mode=0o700),
    )
