"""An export as an answer: refused as a problem before its first byte, cut off without an end after that."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from threading import BoundedSemaphore
from typing import Literal

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ingestion_api.exports.files import csv_parts, parquet_parts
from ingestion_api.exports.tables import Columns, Values
from schemas.errors import Retry

Format = Literal["csv", "parquet"]

MAX_RUNNING = 4  # exports of one process; each has a thread while it makes a part
RETRY_SECONDS = 10
MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
#: The head of the file and its first rows: what most exports fail by, they fail by there.
PARTS_AHEAD = 2

_running = BoundedSemaphore(MAX_RUNNING)


class ExportResponse(StreamingResponse):
    """Gives its place back when it is over, however that came."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.give_back()

    def give_back(self) -> None:
        """For who has made one and will not send it."""
        _running.release()


def export(name: str, columns: Columns, rows: Iterable[Values], file_format: Format) -> ExportResponse:
    """The answer. Reads the first rows at once and raises what they raise, and Retry while MAX_RUNNING others run."""
    if not _running.acquire(blocking=False):
        detail = f"{MAX_RUNNING} exports are running; try again when one is done."
        raise Retry("export.busy", detail, retry_after_seconds=RETRY_SECONDS)
    try:
        parts = csv_parts(columns, rows) if file_format == "csv" else parquet_parts(columns, rows)
        ahead = list(islice(parts, PARTS_AHEAD))
    except BaseException:
        _running.release()
        raise
    headers = {
        "content-disposition": f'attachment; filename="{name}.{file_format}"',
        "cache-control": "no-store",
    }
    return ExportResponse(_not_empty(chain(ahead, parts)), media_type=MEDIA_TYPES[file_format], headers=headers)


def _not_empty(parts: Iterable[bytes]) -> Iterator[bytes]:
    """An empty part would be taken for the end."""
    return (part for part in parts if part)
