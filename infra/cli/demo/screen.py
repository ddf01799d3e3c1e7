"""What a person sees: the live table, the invoices, the proof."""

from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from infra.cli.demo.contract import CUSTOMERS, METERS
from infra.cli.demo.traffic import Progress

BAR_WIDTH = 24


def live_table(progress: Progress, *, elapsed_seconds: float, checks: list[dict[str, Any]]) -> RenderableType:
    """Events so far, the rate, the lag, and every counter beside its limit."""
    rate = progress.acknowledged / elapsed_seconds if elapsed_seconds else 0
    lags = [Decimal(str(check["lag_seconds"])) for check in checks if check["lag_seconds"] is not None]
    lag = f"{max(lags):.2f} s behind" if lags else "not counting yet"
    head = Text.assemble(
        (f"{progress.acknowledged:,}", "bold green"),
        f" of {progress.total:,} events acknowledged by Kafka   {rate:,.0f}/s   "
        f"counters {lag}   {progress.sent_again:,} sent twice on purpose",
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Customer", "Feature", "Used", "Limit", "", "May go on?"):
        table.add_column(name, justify="right" if name in ("Used", "Limit") else "left")
    keys = [(customer, feature) for customer in CUSTOMERS for feature in METERS]
    for (customer, feature), check in zip(keys, checks, strict=False):
        used, limit = Decimal(check["used"]), Decimal(check["limit"])
        allowed = Text("yes", "green") if check["allowed"] else Text(f"no: {check['reason']}", "red")
        bar = ProgressBar(total=100, completed=min(100, int(100 * used / limit)), width=BAR_WIDTH)
        table.add_row(CUSTOMERS[customer], feature, f"{used:,f}", f"{limit:,f}", bar, allowed)
    return Panel(Group(head, "", table), title="Events in", border_style="cyan")


def invoice_panel(customer: str, invoice: dict[str, Any]) -> RenderableType:
    """One invoice as its customer would read it, each line with the rows that add up to it."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("Line", ratio=1)
    for name in ("Quantity", "Unit amount", "Amount"):
        table.add_column(name, justify="right")
    for line in invoice["lines"]:
        quantity = f"{Decimal(line['quantity']):,f}" if line["quantity"] is not None else ""
        table.add_row(Text(line["description"], "bold"), quantity, "", Text(line["amount"], "bold"))
        for row in line["explain"]:
            part = f"{Decimal(row['quantity']):,f}" if row["quantity"] is not None else ""
            table.add_row(f"  {row['what']}", part, row["unit_amount"] or "", row["amount"], style="dim")
    table.add_section()
    table.add_row("Total", "", "", Text(f"{invoice['currency']} {invoice['total']}", "bold green"))
    return Panel(table, title=f"{invoice['number']}  {CUSTOMERS[customer]}  ({invoice['status']})", title_align="left")


def proof_table(rows: list[tuple[str, str, str, str]]) -> RenderableType:
    """(customer, what, by the pipeline, by hand) for each figure, and whether the two are equal."""
    table = Table(title="Proof: the pipeline against the CSV and decimal alone", title_justify="left")
    table.add_column("Customer")
    table.add_column("Figure")
    table.add_column("By the pipeline", justify="right")
    table.add_column("By hand", justify="right")
    table.add_column("Equal")
    for customer, what, pipeline, by_hand in rows:
        equal = Decimal(pipeline) == Decimal(by_hand)
        table.add_row(customer, what, pipeline, by_hand, Text("yes", "green") if equal else Text("NO", "bold red"))
    return table
