"""The command `meterline`. A command is a line in `COMMANDS`; its module is imported when it runs, so help is quick."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

#: Name: where its function (or its `typer.Typer`, when it has commands of its own) stands, and what it is for.
COMMANDS = {
    "api": ("infra.cli.services:api", "Run the API service; its settings are METERLINE_… in the environment."),
    "bench": ("infra.cli.bench:bench", "Measure: ingest, usage, billing, pricing."),
    "demo": ("infra.cli.demo.command:demo", "Real requests through the real stack to proven invoices."),
    "dev": ("infra.cli.dev:dev", "Run the whole of Meterline here: its servers and its three services."),
    "doctor": ("infra.cli.doctor:doctor", "Say which servers are used, from where, and whether they answer."),
    "explain": ("infra.cli.explain:explain", "Say what became of one event."),
    "export": ("infra.cli.export:export", "Write invoices, their lines, usage or FOCUS rows to a file."),
    "flow": ("infra.cli.services:flow", "Run the metering of one shard, METERLINE_FLOW_SHARD."),
    "meters": ("infra.cli.meters:meters_app", "Build meters where no worker runs."),
    "migrate": ("infra.cli.migrate:migrate", "Bring both stores and the topics to what this version needs."),
    "preview": ("infra.cli.preview:preview", "Show what the next invoice of a subscription says so far."),
    "pricing": ("infra.cli.pricing:pricing_app", "Test a price book like code, and on real usage."),
    "replay": ("infra.cli.replay:replay", "Judge quarantined events anew."),
    "send": ("infra.cli.send:send", "Send the events of a file."),
    "usage": ("infra.cli.usage:usage", "Show what a meter counted."),
    "version": ("infra.cli.version:version", "Say which version this is."),
    "worker": ("infra.cli.services:worker", "Run the billing worker."),
}

#: Of a whole number that a command reads or shows. An event can hold no longer one, whatever was let in before.
MAX_INT_DIGITS = 64 * 1024


class LazyGroup(TyperGroup):
    """Lists commands from the table, and imports the one that is run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's signature
        """As much of a command as help needs; None for a name that is no command."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The real command, for running it and for its own help."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else found, rest


def load(name: str) -> Any:
    """Import a command and make it ready to run."""
    module, attribute = COMMANDS[name][0].split(":")
    target = getattr(import_module(module), attribute)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    single = typer.Typer(add_completion=False)
    single.command(name, help=COMMANDS[name][1])(target)
    return typer.main.get_command(single)


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def meterline() -> None:
    """Usage metering and billing: events in, exact usage, entitlement decisions and invoices out."""


def main() -> None:
    """The entry point of `meterline`. Exit status: 0 done, 1 failed, 2 misused."""
    sys.set_int_max_str_digits(MAX_INT_DIGITS)
    app(prog_name="meterline")


if __name__ == "__main__":
    main()
