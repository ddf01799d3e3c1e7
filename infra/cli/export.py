"""`meterline export`: invoices, their lines, usage or FOCUS rows as a file that is there whole or not at all."""

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import urlencode

import httpx2
import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from infra.cli.api import DEFAULT_URL, Key, Url, refuse, refuse_as

#: For the next part of the file; the server makes one of some thousand rows at a time.
READ_SECONDS = 120
STDOUT = "-"


class Dataset(StrEnum):
    """What can be exported, by the name that it has here."""

    INVOICES = "invoices"
    LINES = "lines"
    USAGE = "usage"
    FOCUS = "focus"

    @property
    def path(self) -> str:
        return "invoice_lines" if self is Dataset.LINES else self.value


class Format(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


def export(
    dataset: Annotated[Dataset, typer.Argument(help="What to export.")],
    start: Annotated[str, typer.Option("--from", help="RFC 3339; of invoices when they became final.")],
    to: Annotated[str, typer.Option(help="RFC 3339, not included.")],
    out: Annotated[str, typer.Option(help="The file to write, or `-` for standard output.")],
    file_format: Annotated[Format, typer.Option("--format", help="csv or parquet.")] = Format.CSV,
    customer: Annotated[str | None, typer.Option(help="Of one customer: its external_id or id.")] = None,
    meter: Annotated[str | None, typer.Option(help="Usage of one meter: its key or id.")] = None,
    window: Annotated[str | None, typer.Option(help="Usage by hour or day (default).")] = None,
    timezone: Annotated[str | None, typer.Option(help="Usage by the calendar of an IANA zone; default UTC.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="The summary for machines.")] = False,
) -> None:
    """Write an export to a file. It gets its name when all of it is there: what breaks off leaves nothing behind."""
    query = {"from": start, "to": to, "format": file_format.value}
    own = {"customer": customer, "meter": meter, "window": window, "timezone": timezone}
    query |= {name: value for name, value in own.items() if value is not None}
    path = f"/v1/exports/{dataset.path}?{urlencode(query)}"
    counter = _Counter()
    try:
        if out == STDOUT:
            _download(url, api_key, path, sys.stdout.buffer, counter, quiet=True)
            rows = counter.rows if file_format is Format.CSV else None
        else:
            with _whole_file(Path(out)) as (part, stream):
                _download(url, api_key, path, stream, counter, quiet=as_json)
                stream.flush()
                rows = counter.rows if file_format is Format.CSV else _parquet_rows(part)
    except OSError as error:
        raise refuse(f"{out} can't be written: {error}") from error
    summary = {"dataset": dataset.value, "format": file_format.value, "file": out, "rows": rows, "bytes": counter.bytes}
    shown = json.dumps(summary, ensure_ascii=False) if as_json else _sentence(summary)
    typer.echo(shown, err=out == STDOUT)


def _sentence(summary: dict[str, Any]) -> str:
    rows = "" if summary["rows"] is None else f"{summary['rows']:,} rows, "
    return f"{rows}{summary['bytes']:,} bytes in {summary['file']}"


class _Counter:
    """Bytes that went by, and the rows of CSV in them: line ends outside of quotes, but for the line of names."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lines = 0
        self._is_quoted = False

    @property
    def rows(self) -> int:
        return max(0, self._lines - 1)

    def add(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        for place, piece in enumerate(chunk.split(b'"')):
            self._is_quoted ^= place > 0
            if not self._is_quoted:
                self._lines += piece.count(b"\n")


def _download(url: str, api_key: str, path: str, stream: BinaryIO, counter: _Counter, *, quiet: bool) -> None:
    """Write the answer as it comes. Says why on stderr, and exits with 1, when it is refused or breaks off."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        with (
            httpx2.stream("GET", url.rstrip("/") + path, headers=headers, timeout=READ_SECONDS) as answer,
            Progress(
                *columns,
                TimeElapsedColumn(),
                console=console,
                disable=quiet or not console.is_terminal,
                transient=True,
            ) as progress,
        ):
            if not answer.is_success:
                answer.read()
                raise refuse_as(url, answer)
            task = progress.add_task("Exporting", total=None)
            for chunk in answer.iter_bytes():
                stream.write(chunk)
                counter.add(chunk)
                progress.update(task, completed=counter.bytes)
    except httpx2.TransportError as error:
        raise refuse(_broken(url, counter, error)) from error


def _broken(url: str, counter: _Counter, error: Exception) -> str:
    if not counter.bytes:
        return f"{url} does not answer: {error}"
    return f"The export broke off after {counter.bytes:,} bytes and is not complete: {error}"


@contextmanager
def _whole_file(path: Path) -> Generator[tuple[Path, BinaryIO]]:
    """A file beside `path` that takes its place when the block ends, and goes when the block raises."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            yield part, stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _parquet_rows(path: Path) -> int:
    """What the footer says. Raises Exit when there is none: then the file is not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowInvalid as error:
        raise refuse(f"The export is not a whole Parquet file: {error}") from error
