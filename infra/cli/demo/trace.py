"""The demo's input: an hour of LLM requests as a CSV, real or made from a fixed seed in the same shape.

Columns: TIMESTAMP (`2023-11-16 18:15:46.6805900`, UTC), ContextTokens, GeneratedTokens.
"""

import csv
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.errors import Reject

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
GENERATED_ROWS = 20_000
GENERATED_SEED = 20231116
GENERATED_START = datetime(2023, 11, 16, 18, 15, tzinfo=UTC)
MAX_ROWS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to a model. `row` is its place in the file, from 0: who sent it follows from that alone."""

    row: int
    at: datetime
    context_tokens: int
    generated_tokens: int


def generate_trace(path: Path) -> None:
    """Write a trace of an hour: bursts of arrivals, long-tailed prompts, shorter answers; the same at every call."""
    draw = random.Random(GENERATED_SEED)  # noqa: S311 (a fixed seed is the point)
    at = GENERATED_START
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for _ in range(GENERATED_ROWS):
            at += timedelta(microseconds=round(draw.expovariate(GENERATED_ROWS / 3.5e9)))
            context = min(14_000, max(3, round(draw.lognormvariate(6.6, 1.0))))
            generated = min(1_500, max(1, round(draw.lognormvariate(5.0, 0.9))))
            writer.writerow((at.strftime("%Y-%m-%d %H:%M:%S.%f") + "0", context, generated))


def read_trace(path: Path) -> list[Request]:
    """The requests of a trace in the order of the file. Raises Reject when it is none, naming the line."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise Reject("trace.invalid", f"{path} has no columns {', '.join(COLUMNS)}; it can't be replayed")
        requests: list[Request] = []
        for number, row in enumerate(rows):
            if number >= MAX_ROWS:
                raise Reject("trace.too_long", f"{path} has more than {MAX_ROWS:,} rows; replay a part of it")
            try:
                requests.append(
                    Request(
                        row=number,
                        at=datetime.fromisoformat(row["TIMESTAMP"]).replace(tzinfo=UTC),
                        context_tokens=int(row["ContextTokens"]),
                        generated_tokens=int(row["GeneratedTokens"]),
                    )
                )
            except (TypeError, ValueError) as error:
                raise Reject("trace.invalid", f"{path}, line {number + 2}: {error}") from error
    if not requests:
        raise Reject("trace.invalid", f"{path} has no rows; there is nothing to replay")
    return requests


def shift_to(requests: list[Request], *, last_at: datetime) -> list[Request]:
    """The same requests, moved as a whole so that the latest of them happened at `last_at`."""
    shift = last_at - max(request.at for request in requests)
    return [
        Request(
            row=request.row,
            at=request.at + shift,
            context_tokens=request.context_tokens,
            generated_tokens=request.generated_tokens,
        )
        for request in requests
    ]
