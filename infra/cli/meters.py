"""`meterline meters`: what the worker does with meters, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.proof import run_module
from infra.local import record
from infra.settings import Settings

meters_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build meters where no worker runs.")


@meters_app.callback()
def meters() -> None:
    """Meters, in the foreground."""


@meters_app.command()
def build(data_dir: Annotated[Path | None, typer.Option(help="Of a running `meterline dev`.")] = None) -> None:
    """Count the past of every meter that waits for it. Flows must run; the worker does the same by itself."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    settings = record.with_addresses(settings, record.running(record.resolve_data_dir(settings)))
    raise typer.Exit(run_module("flows.builds", settings).returncode)
