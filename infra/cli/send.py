"""`meterline send`: the events of a file, sent until each of them is acknowledged."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import httpx2
import msgspec
import typer
import zstandard
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from infra.cli.api import DEFAULT_URL, TIMEOUT_SECONDS, Key, Url, refuse

EVENTS_A_REQUEST = 1_000
BYTES_A_REQUEST = 4 * 1024 * 1024
MAX_FILE_BYTES = 1 << 30
MAX_ATTEMPTS = 6
MAX_WAIT_SECONDS = 5
SHOWN_REJECTIONS = 20


class Undelivered(Exception):
    """A batch that was not taken, and why, as a sentence."""


def send(
    file: Annotated[str, typer.Argument(help="NDJSON or a JSON array of events; `-` reads standard input.")],
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Send the events of a file. Sending it again changes nothing: events are known by source and id.

    While the server is away, each batch of up to 1,000 events is tried 6 times, at most 5 seconds apart. Exit status 1
    when an event was rejected, one could not be delivered, or there was none; what it waits for is said on stderr.
    """
    lines = _read_lines(file)
    if not lines:
        raise refuse("There was nothing to send: no events in the file.")
    totals: dict[str, Any] = {"accepted": 0, "duplicates": 0, "rejected": []}
    headers = {
        "authorization": f"Bearer {api_key}",
        "content-type": "application/x-ndjson",
        "content-encoding": "zstd",
    }
    console = Console(stderr=True)
    with (
        httpx2.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_SECONDS) as client,
        Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task("Sending", total=len(lines))
        first = 0
        for batch in _batches(lines):
            try:
                answer = _deliver(client, b"\n".join(batch), progress.console)
            except Undelivered as error:
                progress.stop()
                taken = totals["accepted"] + totals["duplicates"]
                raise refuse(
                    f"{error} Taken before: {taken:,} of {len(lines):,}. Run it again: no event counts twice."
                ) from None
            totals["accepted"] += answer["accepted"]
            totals["duplicates"] += answer["duplicates"]
            totals["rejected"] += [each | {"index": each["index"] + first} for each in answer["rejected"]]
            first += len(batch)
            progress.advance(task, len(batch))
    if as_json:
        typer.echo(json.dumps(totals, ensure_ascii=False))
    else:
        Console().print(to_table(totals))
    raise typer.Exit(1 if totals["rejected"] else 0)


def _read_lines(file: str) -> list[bytes]:
    """One event a line, whatever form the file has."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
            body = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    if len(body) > MAX_FILE_BYTES:
        raise typer.BadParameter(f"more than {MAX_FILE_BYTES} bytes; split it", param_hint="FILE")
    if body.lstrip()[:1] != b"[":
        return [line for line in (line.strip() for line in body.split(b"\n")) if line]
    try:
        # Compact: a line must not hold a line break.
        return [msgspec.json.format(each, indent=-1) for each in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise typer.BadParameter(f"no JSON array: {error}", param_hint="FILE") from None


def _batches(lines: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == EVENTS_A_REQUEST or size + len(line) > BYTES_A_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield batch


def _deliver(client: httpx2.Client, body: bytes, console: Console) -> dict[str, Any]:
    """Send a batch until it is answered, be it with nothing but rejections. Raises Undelivered."""
    packed = zstandard.ZstdCompressor().compress(body)
    reason = ""
    for attempt in range(MAX_ATTEMPTS):
        try:
            answer = client.post("/v1/events", content=packed)
        except httpx2.TransportError as error:
            reason, wait_seconds = f"{client.base_url} does not answer: {error}.", min(2**attempt, MAX_WAIT_SECONDS)
        else:
            problem: dict[str, Any] = _decode(answer)
            if answer.status_code == 202 and problem.keys() >= {"accepted", "duplicates", "rejected"}:
                return problem
            if problem.get("code") == "event.all_rejected":
                return {"accepted": 0, "duplicates": 0, "rejected": problem["rejected"]}
            unknown = f"answered with status {answer.status_code}; is it Meterline?"
            reason = f"{problem.get('code', client.base_url)}: {problem.get('detail', unknown)}"
            if answer.status_code not in (429, 503):
                raise Undelivered(reason)
            retry_after = answer.headers.get("retry-after", "1")
            wait_seconds = min(int(retry_after) if retry_after.isdigit() else 1, MAX_WAIT_SECONDS)
        if attempt + 1 < MAX_ATTEMPTS:
            console.print(f"{reason} Trying again in {wait_seconds} s.", markup=False, highlight=False)
            time.sleep(wait_seconds)
    raise Undelivered(f"Not delivered in {MAX_ATTEMPTS} attempts: {reason}")


def _decode(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def to_table(totals: dict[str, Any]) -> Table:
    """What was taken, and the first rejections."""
    rejected = totals["rejected"]
    copies = "copy" if totals["duplicates"] == 1 else "copies"
    shown = f"{totals['accepted']:,} accepted, {totals['duplicates']:,} {copies}, {len(rejected):,} rejected"
    caption = f"the first {SHOWN_REJECTIONS}" if len(rejected) > SHOWN_REJECTIONS else None
    table = Table(title=shown, caption=caption, box=HEAVY_HEAD if rejected else None, show_header=bool(rejected))
    for name in ("Place", "Id", "Code", "Why"):
        table.add_column(name)
    for each in rejected[:SHOWN_REJECTIONS]:
        table.add_row(str(each["index"]), each["id"] or "", each["code"], each["detail"])
    return table
