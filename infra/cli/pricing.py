"""`meterline pricing`: a price book is tested like code, and tried on real usage, before it goes live."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from infra.cli.simulate import simulate
from pricing.cases import CaseResult, malformed, run_case

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024

FAILED = 1
MISUSE = 2

pricing_app = typer.Typer(help="Prices, the cases that prove them, and what they would bring.", no_args_is_help=True)
pricing_app.command("simulate")(simulate)


class Unreadable(Exception):
    """A file that can't be read at all."""


@pricing_app.callback()
def pricing() -> None:
    """Prices, the cases that prove them, and what they would bring."""


@pricing_app.command()
def test(files: Annotated[list[Path], typer.Argument(help="Files of cases, one JSON object a line.")]) -> None:
    """Run golden cases against the pricing engine: a line for each failure, then how many passed and failed.

    Exit status 1 when a case failed, 2 when a file can't be read.
    """
    passed = failed = 0
    try:
        for file in files:
            for result in run_file(file):
                if result.passed:
                    passed += 1
                else:
                    failed += 1
                    typer.echo(report(result))
    except Unreadable as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(MISUSE) from None
    typer.echo(f"{passed} passed, {failed} failed")
    if failed:
        raise typer.Exit(FAILED)


def run_file(file: Path) -> Iterator[CaseResult]:
    """The results of a file's cases, in order. A line that is no JSON is a failed case, named by its place."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file.name}:{number}"
        if len(line) > MAX_LINE_BYTES:
            yield malformed(place, None, f"a line of {len(line)} bytes; {MAX_LINE_BYTES} is the limit")
            continue
        try:
            case: object = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            yield malformed(place, None, f"no JSON: {error}")
            continue
        yield run_case(case, place)


def read_lines(file: Path) -> list[bytes]:
    """A file's lines. Raises Unreadable for one that is missing, forbidden, too large, or no text."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise Unreadable(f"{file} has more than {MAX_FILE_BYTES} bytes")
        content = file.read_bytes()
        content.decode("utf-8")
    except OSError as error:
        raise Unreadable(f"{file} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{file} can't be read: it is no UTF-8 text") from None
    return content.split(b"\n")


def report(result: CaseResult) -> str:
    """One line: the case's id, what was expected, what came."""
    expected = msgspec.json.encode(result.expected).decode()
    actual = msgspec.json.encode(result.actual).decode()
    return f"FAILED {printable(result.id)} expected {expected} actual {actual}"


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
