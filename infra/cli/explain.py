"""`meterline explain`: what became of one event."""

import json
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.table import Table

from infra.cli.api import DEFAULT_URL, Key, Url, call


def explain(
    event_id: Annotated[str, typer.Argument(help="The sender's id of the event.")],
    source: Annotated[str | None, typer.Option(help="Its source, where several use the same id.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer, for machines.")] = False,
) -> None:
    """Follow an event from its receipt to the meters and the invoice."""
    query = f"?{urlencode({'source': source})}" if source else ""
    event = call("GET", url, api_key, f"/v1/events/{quote(event_id, safe='')}{query}")
    if as_json:
        typer.echo(json.dumps(event, indent=2, ensure_ascii=False))
    else:
        Console().print(to_table(event))


def to_table(event: dict[str, Any]) -> Table:
    """The event's way, step by step."""
    status = event["status"] + (f" ({event['code']})" if event["code"] else "")
    table = Table(title=f"{event['source']}/{event['id']}: {status}", caption=f"time {event['time']}")
    for name in ("At", "Step", "What happened"):
        table.add_column(name)
    for step in event["trace"]:
        table.add_row(step["at"] or "", step["step"], step["detail"])
    return table
