"""The command itself, from the first line to the proof."""

import asyncio
import os
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from infra.cli.demo.client import Api, usage_complete_until, wait_until
from infra.cli.demo.contract import CUSTOMERS, METERS, event_of, set_up_calls, subscription_call
from infra.cli.demo.proof import expect
from infra.cli.demo.screen import invoice_panel, live_table, proof_table
from infra.cli.demo.stack import Running, running_stack
from infra.cli.demo.trace import Request, generate_trace, read_trace, shift_to
from infra.cli.demo.traffic import Progress, send_all
from schemas.errors import MeterlineError, Retry
from schemas.instants import format_instant, parse_instant

DEFAULT_RATE = 4_000
REFRESH_SECONDS = 0.25
COUNTED_SECONDS = 60  # how long counting and billing may take after the last event
INVOICES_A_CUSTOMER = 2  # the base fee when the subscription starts, the usage when it ends

NEVER = datetime.min.replace(tzinfo=UTC)  # before the first batch: counted up to no instant yet
PLAIN_WIDTH = 110  # of what goes to a file or a log

console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def demo(
    trace: Annotated[Path | None, typer.Option(help="A CSV with TIMESTAMP, ContextTokens, GeneratedTokens.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end.")] = False,
    rate: Annotated[int, typer.Option(min=1, help="Events a second to send.")] = DEFAULT_RATE,
    data_dir: Annotated[Path | None, typer.Option(help="Keep the data here (default: a temporary folder).")] = None,
) -> None:
    """Real LLM requests in, invoices out, on the real stack, proven to the last digit."""
    if trace is not None and not trace.is_file():
        raise typer.BadParameter(f"there is no file {trace}")
    # Nothing is billed before its events are in; the demo sends them all first, so it need not wait an hour more.
    os.environ.setdefault("METERLINE_BILLING_GRACE_SECONDS", "0")
    with tempfile.TemporaryDirectory(prefix="meterline-demo-", ignore_cleanup_errors=True) as temporary:
        folder = data_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        Path(temporary).chmod(0o755)  # PostgreSQL's own user has to reach its folder below
        try:
            source = trace or generated(folder)
            requests = read_trace(source)
            console.rule("[bold]Meterline demo")
            console.print(
                f"{len(requests):,} LLM requests from {source}; starting Kafka, PostgreSQL, ClickHouse, Temporal"
            )
            with running_stack(folder) as stack:
                equal = run(stack, source, requests, rate=rate)
                if equal and not once:
                    leave_running(stack, folder)
        except (MeterlineError, RuntimeError) as error:
            console.print(f"[bold red]The demo failed:[/] {error}", markup=True, highlight=False)
            raise typer.Exit(1) from error
    if not equal:
        console.print("[bold red]The invoices are wrong. Please report this with the table above.")
        raise typer.Exit(1)


def generated(folder: Path) -> Path:
    """The trace made with the fixed seed, as a file, so that the proof reads a CSV here too."""
    path = folder / "generated-trace.csv"
    generate_trace(path)
    return path


def run(stack: Running, source: Path, requests: list[Request], *, rate: int) -> bool:
    """The main job, start to proof; whether every figure is equal."""
    api = Api(stack.url, stack.key)
    moved = shift_to(requests, last_at=datetime.now(UTC))
    first_at = min(request.at for request in moved)
    start = first_at.replace(second=0, microsecond=0)
    console.print(f"The API serves at {stack.url}. The trace is moved in time: its last request happens now.")
    for path, body in set_up_calls():
        api.post(path, body)
    subscriptions = [api.post(*subscription_call(customer, start_at=start))["id"] for customer in CUSTOMERS]
    console.print(
        f"2 meters, 2 features, 1 plan, {len(CUSTOMERS)} customers; subscriptions since {format_instant(start)}"
    )
    acknowledged_at = show_traffic(stack, api, moved, rate=rate)
    end = acknowledged_at + timedelta(minutes=1)
    wait_until(
        "usage to hold everything acknowledged",
        lambda: usage_complete_until(api, start=start, end=end) >= acknowledged_at,
        seconds=COUNTED_SECONDS,
    )
    # Copies are acknowledged like any event, so the waits cover them too: they are in the log, and count for nothing.
    checks = api.checks()
    for subscription in subscriptions:
        api.post(f"/v1/subscriptions/{subscription}/cancel", {"at": "now"})
    console.print("All contracts end now: the usage so far is billed.")
    wait_until(
        "the invoices",
        lambda: all(len(api.invoices(customer)) == INVOICES_A_CUSTOMER for customer in CUSTOMERS),
        seconds=COUNTED_SECONDS,
    )
    for customer in CUSTOMERS:
        for invoice in api.invoices(customer):
            console.print(invoice_panel(customer, invoice))
    figures = compare(api, source, checks, start=start, end=end)
    console.print(proof_table(figures))
    wrong = sum(Decimal(pipeline) != Decimal(by_hand) for _, _, pipeline, by_hand in figures)
    if not wrong:
        console.print(f"[bold green]Proven:[/] all {len(figures)} figures are equal to the last digit.")
    return not wrong


def show_traffic(stack: Running, api: Api, requests: list[Request], *, rate: int) -> datetime:
    """Send all events while a table shows what arrives, until the counters hold them all; when the last was
    acknowledged."""
    progress = Progress(total=len(requests))
    events = [event_of(request) for request in requests]
    failures: list[BaseException] = []

    def send() -> None:
        try:
            asyncio.run(send_all(stack.url, stack.key, events, rate=rate, progress=progress))
        except BaseException as error:  # handed to the main thread below, which raises it
            failures.append(error)

    sender = threading.Thread(target=send, name="traffic", daemon=True)
    sender.start()
    started = time.monotonic()
    sending_seconds, acknowledged_at, counted_until = 0.0, None, NEVER
    with Live(console=console, auto_refresh=False) as live:
        while acknowledged_at is None or counted_until < acknowledged_at:
            sender.join(REFRESH_SECONDS)
            elapsed = time.monotonic() - started
            if sender.is_alive():
                sending_seconds = elapsed
            elif failures:
                raise RuntimeError(f"sending stopped: {failures[0]}") from failures[0]
            elif acknowledged_at is None:
                acknowledged_at = datetime.now(UTC)
            elif elapsed > sending_seconds + COUNTED_SECONDS:
                raise Retry("demo.timeout", f"waited {COUNTED_SECONDS} s in vain for the counters")
            checks = api.checks()
            counted_until = min(parse_instant(check["as_of"]) if check["as_of"] else NEVER for check in checks)
            live.update(live_table(progress, elapsed_seconds=sending_seconds, checks=checks), refresh=True)
    console.print()
    return acknowledged_at


def compare(
    api: Api, source: Path, checks: list[dict[str, Any]], *, start: datetime, end: datetime
) -> list[tuple[str, str, str, str]]:
    """(customer, figure, by the pipeline, by hand) of counters, usage, invoice lines and totals."""
    figures: list[tuple[str, str, str, str]] = []
    counters = iter(checks)
    for customer, expected in expect(source).items():
        by_hand = {"context_tokens": expected.context, "generated_tokens": expected.generated}
        for meter in METERS:
            figures.append((customer, f"{meter}: counter", next(counters)["used"], str(sum(by_hand[meter].values()))))
            usage = api.usage_by_model(meter, customer, start=start, end=end)["data"]
            used = {row["group"]["model"]: row["value"] for row in usage}
            for model in sorted(by_hand[meter].keys() | used.keys()):
                hand = str(by_hand[meter].get(model, 0))
                figures.append((customer, f"{meter}: usage of {model}", used.get(model, "0"), hand))
        invoices = api.invoices(customer)
        lines = {line["key"]: line for invoice in invoices for line in invoice["lines"]}
        tokens = str(expected.context_tokens), str(expected.generated_tokens)
        amounts = str(expected.context_amount), str(expected.generated_amount)
        for key, quantity, amount in zip(("context", "generated"), tokens, amounts, strict=True):
            figures.append((customer, f"invoice line {key}: quantity", lines[key]["quantity"], quantity))
            figures.append((customer, f"invoice line {key}: amount", lines[key]["amount"], amount))
        total = sum((Decimal(invoice["total"]) for invoice in invoices), Decimal(0))
        figures.append((customer, "all invoices: total", str(total), str(expected.total)))
    return figures


def leave_running(stack: Running, folder: Path) -> None:
    """Say what there is to look at, and wait for Ctrl-C."""
    console.rule("[bold]Still running")
    console.print(f"API            {stack.url}  (described at {stack.url}/openapi.json)", highlight=False)
    console.print(f"Key            {stack.key}", highlight=False)
    console.print(f"State          .venv/bin/meterline doctor --data-dir {folder}", highlight=False)
    console.print(f"Logs           {folder}/logs", highlight=False)
    console.print(
        f'Try            curl -H "Authorization: Bearer {stack.key}" {stack.url}/v1/invoices', highlight=False
    )
    console.print("Ctrl-C stops all of it.")
    try:
        stack.process.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
