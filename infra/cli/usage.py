"""`meterline usage`: what a meter counted, window by window."""

import json
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from infra.cli.api import DEFAULT_URL, Key, Url, call

MAX_ROWS = 10_000  # that a terminal should show; ask for less, or page the API


def usage(
    meter: Annotated[str, typer.Argument(help="The meter's key or id.")],
    customer: Annotated[str | None, typer.Option(help="The customer's external_id or id.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339; default: the first event.")] = None,
    to: Annotated[str | None, typer.Option(help="RFC 3339, not included; default: after the last event.")] = None,
    window: Annotated[str, typer.Option(help="minute, hour, day, week, month or none.")] = "none",
    timezone: Annotated[str, typer.Option(help="An IANA name.")] = "UTC",
    group_by: Annotated[list[str] | None, typer.Option(help="A property of the meter, or customer; repeats.")] = None,
    filters: Annotated[list[str] | None, typer.Option("--filter", help="property=value; repeats.")] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Windows without events too.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show the usage of a meter."""
    query = [("meter", meter), ("window", window), ("timezone", timezone)]
    query += [(name, value) for name, value in (("customer", customer), ("from", start), ("to", to)) if value]
    query += [("group_by", name) for name in group_by or ()] + ([("fill", "zero")] if fill else [])
    query += [_to_filter(text) for text in filters or ()]
    answer = _all_pages(url, api_key, query)
    if as_json:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        Console().print(to_table(meter, answer))


def _to_filter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not property=value", param_hint="--filter")
    return f"filter[{name}]", value


def _all_pages(url: str, api_key: str, query: list[tuple[str, str]]) -> dict[str, Any]:
    """The first page with the rows of all that follow, up to MAX_ROWS."""
    answer: dict[str, Any] = call("GET", url, api_key, f"/v1/usage?{urlencode(query)}")
    page = answer
    while page["has_more"] and len(answer["data"]) < MAX_ROWS:
        further = [*query, ("starting_after", page["next_cursor"])]
        page = call("GET", url, api_key, f"/v1/usage?{urlencode(further)}")
        answer["data"] += page["data"]
    return answer | {"has_more": page["has_more"], "next_cursor": page["next_cursor"]}


def to_table(meter: str, answer: dict[str, Any]) -> Table:
    """Rows for a person; columns only for what is told apart."""
    rows = answer["data"]
    groups = list(rows[0]["group"]) if rows else []
    customers = any(row["customer"] is not None for row in rows)
    complete = f"complete up to {answer['as_of']}" if answer["as_of"] else "not known yet up to when it is complete"
    table = Table(title=f"Usage of {meter}", caption=complete + (", and there is more" if answer["has_more"] else ""))
    for name in ("From", "To", *(("Customer",) if customers else ()), *groups):
        table.add_column(name, no_wrap=name in ("From", "To"))
    table.add_column("Value", justify="right")
    for row in rows:
        names = [row["customer"] or ""] if customers else []
        texts = ["–" if value is None else value for value in row["group"].values()]
        table.add_row(row["window_start"], row["window_end"], *names, *texts, row["value"])
    return table
