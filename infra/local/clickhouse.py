"""ClickHouse: the engine of `chdb` behind our HTTP front, in a process of its own."""

import sys
from pathlib import Path

from infra.clickhouse.probe import probe
from infra.local.component import Component
from infra.local.ports import LOOPBACK

DATABASE = "meterline"


def component(data_dir: Path, port: int) -> Component:
    """The front with the engine's data in `data_dir`/clickhouse; the database `meterline` exists when it answers."""
    home = data_dir / "clickhouse"
    return Component(
        name="clickhouse",
        address=f"http://default@{LOOPBACK}:{port}/{DATABASE}",
        command=[sys.executable, "-m", "infra.local.clickhouse_front", str(home), str(port), DATABASE],
        port=port,
        probe=probe,
        prepare=lambda: home.mkdir(parents=True, exist_ok=True),
    )
