"""What the usage flow writes to ClickHouse, and the identities it reads back to recognise copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa

from infra.clickhouse.client import Client
from schemas.errors import InvariantBroken
from schemas.instants import to_micros

Table = Any  # a pyarrow.Table: pyarrow publishes no types

#: Hashes a look-up: as hexadecimal they stay below the 128 KiB that ClickHouse takes in one parameter.
LOOKUP_PAGE = 3_000
IDENTITY_PAGE = 1_000_000  # hashes a page when the filter is rebuilt: 16 MB
PREFIXES = 65_536  # of a hash: its first two bytes, so this many pages at most

#: One insert is one block: stored whole or not at all, in a partition of the table. The rows of a block are distinct,
#: so sorting out duplicates on insert would only cost.
INSERT_SETTINGS = {
    "optimize_on_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "async_insert": 0,
    "min_insert_block_size_rows": 0,
    "min_insert_block_size_bytes": 0,
    "max_insert_block_size": 10_000_000,
    "max_threads": 1,
}


def insert_table(client: Client, table: str, rows: Table, *, token: str) -> None:
    """Insert the rows as one block. The token makes a repetition of this very request harmless.

    Raises InvariantBroken when ClickHouse did not read every row, ClickHouseError when it refuses them.
    """
    if rows.num_rows == 0:
        return
    summary = client.raw_insert(
        table,
        column_names=rows.column_names,
        insert_block=_arrow_stream(rows),
        settings=INSERT_SETTINGS | {"insert_deduplication_token": token},
        fmt="ArrowStream",
    )
    if summary.written_rows < rows.num_rows:  # a view's rows may be counted too
        raise InvariantBroken(
            "store.rows_missing", f"ClickHouse read {summary.written_rows} of {rows.num_rows} rows into {table}"
        )


def _arrow_stream(rows: Table) -> Any:
    """The rows as an Arrow stream of one batch (of several beyond 2 GiB a column), in a buffer of just its size.

    No bytes: to those the client adds its statement, in one more copy, where a buffer goes out as it is.
    """
    whole = rows.combine_chunks()
    size = pa.MockOutputStream()
    _write_stream(whole, size)
    buffer = pa.allocate_buffer(size.size())
    with pa.FixedSizeBufferWriter(buffer) as sink:
        _write_stream(whole, sink)
    return memoryview(buffer)


def _write_stream(rows: Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=1 << 30)


@dataclass(frozen=True, slots=True)
class StoredIdentity:
    """Where a stored first copy stands in the log, and when the broker appended it (microseconds since 1970)."""

    partition: int
    offset: int
    index: int
    received_at_micros: int


def stored_identities(client: Client, hashes: list[bytes]) -> dict[bytes, list[StoredIdentity]]:
    """The stored first copies of these identities. An identity that came again after the window has several."""
    found: dict[bytes, list[StoredIdentity]] = {}
    for start in range(0, len(hashes), LOOKUP_PAGE):
        page = hashes[start : start + LOOKUP_PAGE]
        rows = client.query(
            "SELECT hex(hash), kafka_partition, kafka_offset, kafka_index, toUnixTimestamp64Micro(received_at)"
            " FROM event_identities WHERE hash IN"
            " (SELECT toFixedString(unhex(substring({hashes:String}, number * 32 + 1, 32)), 16)"
            " FROM numbers({count:UInt64}))",
            parameters={"hashes": b"".join(page).hex(), "count": len(page)},
        ).result_rows
        for text, partition, offset, index, received_at in rows:
            found.setdefault(bytes.fromhex(text), []).append(StoredIdentity(partition, offset, index, received_at))
    return found


def count_identities(client: Client, partitions: list[int], *, since: datetime | None) -> int:
    """Stored first copies of these partitions, appended at or after `since` (None: ever)."""
    return client.query(
        "SELECT count() FROM event_identities WHERE kafka_partition IN {partitions:Array(UInt16)}"
        " AND received_at >= fromUnixTimestamp64Micro({since:Int64})",
        parameters=_identity_parameters(partitions, since),
    ).result_rows[0][0]


def identity_pages(client: Client, partitions: list[int], *, since: datetime | None, count: int) -> Iterator[bytes]:
    """The hashes of `count_identities`, 16 bytes each, in pages of about IDENTITY_PAGE, by ranges of the hash."""
    pages = min(max(1, -(-count // IDENTITY_PAGE)), PREFIXES)
    bounds = [PREFIXES * page // pages for page in range(pages + 1)]
    for low, after in pairwise(bounds):
        yield client.raw_query(
            "SELECT hash FROM event_identities WHERE kafka_partition IN {partitions:Array(UInt16)}"
            " AND received_at >= fromUnixTimestamp64Micro({since:Int64})"
            " AND hash BETWEEN toFixedString(unhex({low:String}), 16) AND toFixedString(unhex({high:String}), 16)",
            parameters=_identity_parameters(partitions, since)
            | {"low": f"{low:04x}" + "00" * 14, "high": f"{after - 1:04x}" + "ff" * 14},
            fmt="RowBinary",
        )


def _identity_parameters(partitions: list[int], since: datetime | None) -> dict[str, Any]:
    return {"partitions": partitions, "since": 0 if since is None else to_micros(since)}
