"""`meterline doctor --proof`: are the windows of every meter what its stored events give?

The proof runs the flow's own functions, so it is a process of its own, as a flow is.
"""

import json
import os
import subprocess
import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from infra.settings import Settings

STORES = ("postgres_dsn", "clickhouse_url")


def prove(settings: Settings, *, meter: str | None, as_json: bool) -> int:
    """Prove all meters, or those with this key or id, and show what was found; 0 when nothing has drifted."""
    missing = [name for name in STORES if not getattr(settings, name)]
    if missing:
        variables = " and ".join(f"METERLINE_{name.upper()}" for name in missing)
        typer.echo(f"No stack runs here: start `meterline dev`, or set {variables}.", err=True)
        return 1
    answer = run_module("flows.proving", settings, *(("--meter", meter) if meter else ()), capture=True)
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        typer.echo("The proof could not be made.", err=True)
        return 1
    unknown = bool(meter) and not found["meters"]
    if as_json:
        typer.echo(json.dumps(found))
    elif not unknown:
        _show(found)
    if unknown:
        typer.echo(f"There is no meter {meter!r} that is in use and built.", err=True)
        return 1
    return answer.returncode


def run_module(
    module: str, settings: Settings, *arguments: str, capture: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run a module of another process over the stores of these settings; its log goes to standard error."""
    environment = os.environ | {f"METERLINE_{name.upper()}": str(getattr(settings, name)) for name in STORES}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stdout=subprocess.PIPE if capture else None,
        check=False,
    )


def _show(found: dict[str, Any]) -> None:
    table = Table(title="Windows against stored events")
    for name in ("Meter", "Revision", "Events", "Windows", "Verdict"):
        table.add_column(name, justify="right" if name in ("Revision", "Events", "Windows") else "left")
    for meter in found["meters"]:
        verdict = "[green]equal[/]" if meter["ok"] else f"[red]{meter['drifted']} rows differ[/]"
        if meter["repairing"]:
            verdict += ", counted anew"
        table.add_row(meter["key"], str(meter["revision"]), f"{meter['events']:,}", f"{meter['windows']:,}", verdict)
    console = Console()
    console.print(table)
    for meter in found["meters"]:
        for example in meter["examples"]:
            console.print(f"{meter['key']}: {example}", markup=False, highlight=False)
