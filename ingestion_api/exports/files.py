"""Rows → the bytes of a file, in parts, as they come: CSV (RFC 4180) and Parquet.

Neither holds more than ROWS_AT_ONCE rows. What fails between two parts ends the bytes there: Parquet then lacks its
footer, and an HTTP answer its last chunk.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion_api.exports.tables import NUMBER_SCALE, PARQUET_DIGITS, Columns, Kind, Values, arrow_schema, csv_cell
from schemas.errors import Reject

#: Rows of one part, and of one row group.
ROWS_AT_ONCE = 5_000


def csv_parts(columns: Columns, rows: Iterable[Values]) -> Iterator[bytes]:
    """A CSV file in UTF-8 with one line of names; null is an empty cell."""
    kinds = [each.kind for each in columns]
    yield _csv_lines([[each.name for each in columns]])
    for part in _parts(rows):
        yield _csv_lines([csv_cell(kind, value) for kind, value in zip(kinds, row, strict=True)] for row in part)


def _csv_lines(rows: Iterable[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def parquet_parts(columns: Columns, rows: Iterable[Values]) -> Iterator[bytes]:
    """A Parquet file. Raises Reject `export.number_too_large` for a number that its columns can't hold exactly."""
    schema = arrow_schema(columns)
    sink = _Sink()
    writer = pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd")
    for part in _parts(rows):
        arrays = [
            _array(column.name, column.kind, [row[place] for row in part]) for place, column in enumerate(columns)
        ]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROWS_AT_ONCE)
        yield sink.take()
    writer.close()  # not in a `finally`: the footer says that all of it is there
    yield sink.take()


def _array(name: str, kind: Kind, values: list[Any]) -> Any:
    try:
        return pa.array(values, type=kind.value)
    except pa.ArrowInvalid as error:
        if kind not in (Kind.AMOUNT, Kind.NUMBER):
            raise
        detail = (
            f"{name} has a number of more than {PARQUET_DIGITS - NUMBER_SCALE} digits before the point or"
            f" {NUMBER_SCALE} after it, which Parquet's columns can't hold exactly; take format=csv."
        )
        raise Reject.at("/format", "export.number_too_large", detail) from error


def _parts(rows: Iterable[Values]) -> Iterator[list[Values]]:
    rest = iter(rows)
    while part := list(islice(rest, ROWS_AT_ONCE)):
        yield part


class _Sink:
    """A file that is read as it is written: what has been taken is gone."""

    closed = False

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def flush(self) -> None:
        """There is nothing behind it."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken
