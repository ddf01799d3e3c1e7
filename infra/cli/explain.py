"""`meterline explain`: what became of one event."""

import json
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from infra.cli.api import DEFAULT_URL, Key, Url, call

STYLES = {
    "received": "cyan",
    "duplicate": "yellow",
    "customer": "cyan",
    "quarantined": "bold red",
    "unmatched": "yellow",
    "not_taken": "dim",
    "replayed": "magenta",
    "counted": "green",
    "voided": "bold red",
    "billed": "bold green",
}


def explain(
    event_id: Annotated[str, typer.Argument(help="The sender's id of the event.")],
    source: Annotated[str | None, typer.Option(help="Its source, where several use the same id.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer, for machines.")] = False,
) -> None:
    """Follow an event from its receipt to the meters and the invoice: what happened, when, and why.

    Exit status 1 when there is no such event, or the API does not answer.
    """
    if not event_id or source == "":
        raise typer.BadParameter("an event has an id, and a source that is not empty")
    query = f"?{urlencode({'source': source})}" if source else ""
    event = call("GET", url, api_key, f"/v1/events/{quote(event_id, safe='')}{query}")
    if as_json:
        typer.echo(json.dumps(event, indent=2, ensure_ascii=False))
    else:
        Console().print(to_timeline(event))


def to_timeline(event: dict[str, Any]) -> Group:
    """What the event is, then its way step by step. What a sender wrote is text, never markup."""
    status = event["status"] + (f" ({event['code']})" if event["code"] else "")
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("Event", f"{event['source']}/{event['id']}"),
        ("Status", status),
        ("Type", event["type"]),
        ("Subject", event["subject"]),
        ("Customer", event["customer"] or "unknown"),
        ("Time", event["time"]),
        ("Copies", f"{event['copies']}{', in conflict' if event['conflict'] else ''}"),
    ):
        head.add_row(Text(name, "bold"), Text(value))
    steps = Table(show_edge=False, pad_edge=False)
    for name in ("At", "Step", "What happened"):
        steps.add_column(name, no_wrap=name != "What happened")
    for step in event["trace"]:
        name = Text(step["step"], STYLES.get(step["step"], ""))
        steps.add_row(Text(step["at"] or ""), name, Text(step["detail"], overflow="fold"))
    return Group(head, Text(), steps)
