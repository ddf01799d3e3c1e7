"""`meterline preview`: what the next invoice of a subscription says so far."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.cli.api import DEFAULT_URL, Key, Url, call


def preview(
    subscription: Annotated[str, typer.Argument(help="The subscription's id, sub_…")],
    as_of: Annotated[
        str | None, typer.Option(help="The invoice that covers this instant, with usage up to it.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer, for machines.")] = False,
) -> None:
    """Show the next invoice as it stands now: usage so far, and the fees of the next period. Nothing is written."""
    body = {"subscription": subscription} | ({} if as_of is None else {"as_of": as_of})
    invoice = call("POST", url, api_key, "/v1/invoices/preview", body=body)
    if as_json:
        typer.echo(json.dumps(invoice, indent=2, ensure_ascii=False))
    else:
        Console().print(to_table(invoice))


def to_table(invoice: dict[str, Any]) -> Table:
    """The invoice for a person: lines, their rows, totals."""
    as_of = invoice["as_of"]
    table = Table(
        title=f"Next invoice of {invoice['customer']}, due {invoice['period']['end']}",
        caption="without usage" if as_of is None else f"complete up to {as_of}",
    )
    table.add_column("")
    for name in ("Quantity", "Unit", f"Amount {invoice['currency']}"):
        table.add_column(name, justify="right")
    for line in invoice["lines"]:
        table.add_row(line["description"], line["quantity"] or "", line["unit_amount"] or "", line["amount"])
        if len(line["explain"]) > 1:
            for row in line["explain"]:
                cells = (f"  {row['what']}", row["quantity"] or "", row["unit_amount"] or "", row["amount"])
                table.add_row(*cells, style="dim")
    table.add_section()
    for name in ("subtotal", "discount", "tax", "total", "credits_applied", "amount_due"):
        if name in ("subtotal", "total", "amount_due") or invoice[name].strip("0."):
            table.add_row(name.replace("_", " ").capitalize(), "", "", invoice[name])
    return table
