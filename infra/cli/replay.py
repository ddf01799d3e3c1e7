"""`meterline replay`: judge quarantined events anew."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.cli.api import DEFAULT_URL, Key, Url, call


def replay(
    code: Annotated[str | None, typer.Option(help="Only those of this code, e.g. event.invalid_value.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Only those whose own time is at or after this.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Only those whose own time is before this.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Judge quarantined events anew, by the customers and meters of now. It may be run again at any time.

    Exit status 1 when the API refuses it or does not answer; what was asked for until then is done all the same.
    """
    body = {name: value for name, value in (("code", code), ("from", start), ("to", to)) if value is not None}
    requested = 0
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task("Asked to judge anew", total=None)
        while True:
            answer: dict[str, Any] = call("POST", url, api_key, "/v1/events/replay", body=body)
            requested += answer["requested"]
            progress.update(task, completed=requested)
            if not answer["has_more"]:
                break
            body["starting_after"] = answer["next_cursor"]
    if as_json:
        typer.echo(json.dumps({"object": "replay", "requested": requested}))
    else:
        typer.echo(f"{requested:,} quarantined events are judged anew. Those that still can't count stay quarantined.")
