"""`meterline migrate`: bring both stores and the topics to what this version needs."""

from typing import Annotated

import typer
from rich.console import Console

from infra.cli.stores import bring_up_to_date
from infra.clickhouse.client import ClickHouseError
from infra.postgres.pool import PostgresError
from infra.settings import Settings
from schemas.errors import MeterlineError


def migrate(
    as_json: Annotated[bool, typer.Option("--json", help="For machines: what was applied and created.")] = False,
) -> None:
    """Apply missing migrations of PostgreSQL and ClickHouse and create missing topics.

    It may be run again, and from several places at once: one waits for the other.
    """
    console = Console()
    settings = Settings()
    missing = [
        f"METERLINE_{name.upper()}"
        for name in ("postgres_dsn", "clickhouse_url", "kafka_bootstrap")
        if not getattr(settings, name)
    ]
    if missing:
        Console(stderr=True).print(f"Set {', '.join(missing)}. (`meterline dev` migrates its own servers by itself.)")
        raise typer.Exit(2)
    try:
        applied, created = bring_up_to_date(settings)
    except (MeterlineError, PostgresError, ClickHouseError) as error:
        Console(stderr=True).print(f"not migrated: {error}", markup=False)
        raise typer.Exit(1) from None
    if as_json:
        console.print_json(data={"migrations": applied, "topics": created})
        return
    for name in applied:
        console.print(f"applied {name}")
    for topic in created:
        console.print(f"created topic {topic}")
    if not applied and not created:
        console.print("everything is up to date")
