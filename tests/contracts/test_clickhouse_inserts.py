"""Inserts that we need of ClickHouse; see `test_clickhouse_front`."""

# ruff: noqa: S608 - the names in the statements are made here

import json
import uuid
from decimal import Decimal
from urllib.parse import urlsplit

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
import zstandard
from clickhouse_connect.driver.client import Client

from tests.contracts.clickhouse_calls import ROWS_OF_MANY_BLOCKS, SYNC, arrow_stream, connection_to, count, post, send


class TestInserts:
    def test_rows_in_native(self, client: Client, table: str) -> None:
        rows = [[1, "a", Decimal("0.000000000001")], [2, "b", Decimal("-99999999999999999999999999.999999999999")]]
        summary = client.insert(table, rows, column_names=["id", "name", "amount"], settings=SYNC)
        assert summary.written_rows == 2
        assert [list(row) for row in client.query(f"SELECT * FROM {table} ORDER BY id").result_rows] == rows

    @pytest.mark.parametrize("compression", [False, "lz4", "zstd", "gzip"])
    def test_all_blocks_of_a_native_body_arrive(self, url: str, table: str, compression: str | bool) -> None:
        client = clickhouse_connect.get_client(dsn=url, compress=compression, autogenerate_session_id=False)
        columns = [list(range(ROWS_OF_MANY_BLOCKS)), ["x"] * ROWS_OF_MANY_BLOCKS, [Decimal(1)] * ROWS_OF_MANY_BLOCKS]
        summary = client.insert(
            table, columns, column_names=["id", "name", "amount"], column_oriented=True, settings=SYNC
        )
        assert summary.written_rows == ROWS_OF_MANY_BLOCKS
        stored = client.query(f"SELECT count(), sum(id), sum(amount) FROM {table}").first_row
        assert tuple(stored) == (
            ROWS_OF_MANY_BLOCKS,
            ROWS_OF_MANY_BLOCKS * (ROWS_OF_MANY_BLOCKS - 1) // 2,
            Decimal(ROWS_OF_MANY_BLOCKS),
        )
        client.close()

    def test_arrow_through_the_client(self, client: Client, table: str) -> None:
        rows = pa.ipc.open_stream(arrow_stream(0, 70_000, 70_000)).read_all()
        assert client.insert_arrow(table, rows, settings=SYNC).written_rows == 70_000
        assert count(client, table) == 70_000

    def test_several_record_batches_in_one_arrow_body(self, url: str, client: Client, table: str) -> None:
        answer = post(url, f"INSERT INTO {table} FORMAT ArrowStream", arrow_stream(0, 90_000, 20_000), **SYNC)
        assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "90000"
        assert count(client, table) == 90_000

    @pytest.mark.parametrize("encoding", ["lz4", "zstd"])
    def test_all_frames_of_a_compressed_body_are_read(
        self, url: str, client: Client, table: str, encoding: str
    ) -> None:
        compress = {"lz4": lz4.frame.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding]
        body = arrow_stream(0, 60_000, 20_000)
        third = len(body) // 3
        frames = b"".join(map(compress, (body[:third], body[third : 2 * third], body[2 * third :])))
        post(url, f"INSERT INTO {table} FORMAT ArrowStream", frames, {"Content-Encoding": encoding}, **SYNC)
        assert count(client, table) == 60_000

    def test_json_rows_keep_every_digit(self, url: str, client: Client, table: str) -> None:
        lines = (
            b'{"id": 1, "name": "a", "amount": "12345678901234567890123456.123456789012"}\n{"id": 2, "amount": 0.1}\n'
        )
        post(url, f"INSERT INTO {table} FORMAT JSONEachRow", lines, **SYNC)
        amounts = client.query(f"SELECT amount FROM {table} ORDER BY id").result_columns[0]
        assert list(amounts) == [Decimal("12345678901234567890123456.123456789012"), Decimal("0.1")]

    def test_statement_and_data_in_one_body(self, url: str, client: Client, table: str) -> None:
        post(url, "", f"INSERT INTO {table} (id, name) FORMAT TabSeparated\n7\tseven\n8\teight\n".encode(), **SYNC)
        assert client.query(f"SELECT name FROM {table} ORDER BY id").result_columns[0] == ["seven", "eight"]

    def test_values_and_select_are_inserts_too(self, client: Client, table: str) -> None:
        client.command(f"INSERT INTO {table} VALUES (1, 'FORMAT', 0), (2, 'b', 0)")
        client.command(f"INSERT INTO {table} SELECT id + 10, name, amount FROM {table}")
        assert count(client, table) == 4

    def test_a_chunked_body_is_read_to_its_end(self, url: str, client: Client, table: str) -> None:
        body = arrow_stream(0, 5_000, 5_000)
        pieces = (body[start : start + 1_000] for start in range(0, len(body), 1_000))
        post(url, f"INSERT INTO {table} FORMAT ArrowStream", pieces, {"Transfer-Encoding": "chunked"}, **SYNC)
        assert count(client, table) == 5_000

    def test_a_large_insert_that_fails_gets_its_error(self, client: Client, url: str, table: str) -> None:
        body = arrow_stream(0, 300_000, 10_000)  # much more than fits into the buffers of a socket
        answer = send(url, f"INSERT INTO {table} (nothing) FORMAT ArrowStream", body, **SYNC)
        assert answer.code == "16"
        assert count(client, table) == 0

    def test_a_bad_row_stores_nothing_of_its_block(self, url: str, client: Client, table: str) -> None:
        answer = send(url, f"INSERT INTO {table} FORMAT JSONEachRow", b'{"id": 1}\n{"id": "x"}\n', **SYNC)
        assert answer.code in {"27", "26", "72"}
        assert count(client, table) == 0

    @pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip"])
    def test_a_body_that_is_not_what_it_says_is_refused(
        self, url: str, client: Client, table: str, encoding: str
    ) -> None:
        answer = send(url, f"INSERT INTO {table} FORMAT JSONEachRow", b'{"id": 1}\n', {"Content-Encoding": encoding})
        assert answer.status >= 400
        assert answer.code
        assert count(client, table) == 0

    def test_a_body_cut_short_by_the_client_stores_nothing(self, url: str, client: Client, table: str) -> None:
        with connection_to(url) as (connection, login):
            connection.putrequest("POST", f"/?database={urlsplit(url).path.strip('/')}&async_insert=0")
            connection.putheader("Authorization", login["Authorization"])
            connection.putheader("Content-Length", "1000000")
            connection.endheaders(f"INSERT INTO {table} (id) FORMAT JSONEachRow\n".encode() + b'{"id": 1}\n')
        assert client.query("SELECT 1").first_row[0] == 1
        assert count(client, table) == 0

    def test_the_same_token_stores_a_block_once(self, client: Client, table: str) -> None:
        for _ in range(2):
            token = {"insert_deduplication_token": "batch-1", "insert_deduplicate": 1, **SYNC}
            client.insert(table, [[1, "a", 1]], column_names=["id", "name", "amount"], settings=token)
        client.insert(
            table, [[1, "a", 1]], column_names=["id", "name", "amount"], settings=SYNC | {"insert_deduplicate": 0}
        )
        assert count(client, table) == 2

    def test_a_token_covers_the_targets_of_views_too(self, client: Client) -> None:
        source, target, view = (f"{kind}_{uuid.uuid4().hex[:8]}" for kind in ("source", "target", "view"))
        engine = "MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
        client.command(f"CREATE TABLE {source} (id UInt64) ENGINE = {engine}")
        client.command(f"CREATE TABLE {target} (id UInt64) ENGINE = {engine}")
        client.command(f"CREATE MATERIALIZED VIEW {view} TO {target} AS SELECT id FROM {source}")
        for _ in range(2):
            token = {"insert_deduplication_token": "batch-1", "insert_deduplicate": 1, **SYNC}
            client.insert(source, [[1], [2]], column_names=["id"], settings=token)
        assert (count(client, source), count(client, target)) == (2, 2)

    def test_replayed_rows_collapse_under_final(self, client: Client) -> None:
        name = f"replay_{uuid.uuid4().hex[:8]}"
        client.command(
            f"CREATE TABLE {name} (shard UInt8, seq UInt64, n UInt64) ENGINE = ReplacingMergeTree ORDER BY (shard, seq)"
        )
        for _ in range(3):
            client.insert(
                name, [[0, 1, 5]], column_names=["shard", "seq", "n"], settings=SYNC | {"optimize_on_insert": 0}
            )
        assert client.query(f"SELECT sum(n) FROM {name} FINAL").first_row[0] == 5
