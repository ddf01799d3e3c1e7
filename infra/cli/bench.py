"""`meterline bench`: the benchmarks, each a process with options of its own (`meterline bench ingest --help`)."""

import subprocess
import sys

import typer

#: What stands in `bench/`, and what it measures.
BENCHMARKS = {
    "ingest": "Events a second through the whole pipeline, their freshness, and what each process pays.",
    "usage": "Milliseconds of usage queries over 1, 10 or 100 million stored events.",
    "billing": "Invoices an hour, with all stores real.",
    "check": "Entitlement checks a second, their milliseconds, and how far plain events pass a hard limit.",
    "reserve": "Reservations a second and their milliseconds, of many customers or of one.",
    "simulation": "Seconds of what 10,000 customers would have paid last quarter under a plan.",
    "pricing": "Invoices a second of the pricing engine alone.",
}

bench = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure.")


def _register(name: str, about: str) -> None:
    def run(context: typer.Context) -> None:
        raise typer.Exit(subprocess.call([sys.executable, "-m", f"bench.{name}", *context.args]))

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    bench.command(name, help=about, context_settings=settings, add_help_option=False)(run)


for _name, _about in BENCHMARKS.items():
    _register(_name, _about)
