"""`meterline pricing simulate`: what customers would have paid under a plan, beside what they did pay."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.cli.api import DEFAULT_URL, Key, Url, call, fetch

LIMIT_SECONDS = 600  # ten thousand customers take half a minute
MAX_ROWS = 1_000  # that a terminal should show; --csv and --json have all

PATH = "/v1/pricing/simulate"


def simulate(
    plan: Annotated[str, typer.Argument(help="The plan's key or id, or a .json file: a plan's currency and prices.")],
    start: Annotated[str, typer.Option("--from", help="RFC 3339; periods are counted from here.")],
    to: Annotated[str, typer.Option(help="RFC 3339, not included.")],
    customer: Annotated[
        list[str] | None, typer.Option(help="external_id or id; repeats. Default: all that are not archived.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="An IANA name; default: each customer's own.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer, for machines.")] = False,
) -> None:
    """Price the stored usage of customers by a plan, and compare with their invoices. Nothing is written."""
    body = {"plan": read_plan(plan), "from": start, "to": to}
    body |= {name: value for name, value in (("customers", customer), ("timezone", timezone)) if value}
    if as_csv:
        table = fetch("POST", url, api_key, PATH, body=body, accept="text/csv", timeout_seconds=LIMIT_SECONDS)
        typer.echo(table.text, nl=False)
        return
    answer = call("POST", url, api_key, PATH, body=body, timeout_seconds=LIMIT_SECONDS)
    if as_json:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        Console().print(to_table(plan, answer))


def read_plan(plan: str) -> Any:
    """A plan's name as it is; the JSON of a file."""
    if not plan.endswith(".json"):
        return plan
    try:
        return json.loads(Path(plan).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{plan} can't be read: {error}", param_hint="PLAN") from None


def to_table(plan: str, answer: dict[str, Any]) -> Table:
    """Customers and the total for a person."""
    rows, total, period = answer["data"], answer["total"], answer["period"]
    notes = [f"complete up to {answer['as_of']}" if answer["as_of"] else "nothing is stored yet"]
    if len(rows) > MAX_ROWS:
        notes.append(f"the first {MAX_ROWS} of {len(rows)} customers")
    if total["failed"]:
        notes.append(f"without {total['failed']} customers whose usage the plan can't price")
    title = f"{plan} from {period['start']} to {period['end']}, {answer['currency']}"
    table = Table(title=title, caption=", ".join(notes))
    table.add_column("Customer")
    for name in ("Simulated", "Paid", "Difference"):
        table.add_column(name, justify="right")
    for row in rows[:MAX_ROWS]:
        simulated = row["error"]["code"] if row["error"] else row["simulated"]
        table.add_row(row["customer"], simulated, row["paid"], row["difference"] or "")
    table.add_section()
    table.add_row("Total", total["simulated"], total["paid"], total["difference"])
    return table
