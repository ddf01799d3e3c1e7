"""What we need of ClickHouse, asked through `clickhouse-connect`: the front of the embedded engine must give it, and so
must a real server, when `METERLINE_TEST_CLICKHOUSE_URL` names one."""

# ruff: noqa: S608 - the names in the statements are made here

import json
import threading
import uuid
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from tests.contracts.clickhouse_calls import (
    ROWS_OF_MANY_BLOCKS,
    SYNC,
    arrow_stream,
    post,
    send,
)


class TestQueries:
    def test_values_come_back_with_their_types(self, client: Client) -> None:
        row = client.query(
            "SELECT 1::UInt8, 'ä', toDecimal128('0.000000000001', 12), NULL, [1, 2], map('a', 1)"
        ).first_row
        assert tuple(row) == (1, "ä", Decimal("0.000000000001"), None, [1, 2], {"a": 1})

    def test_no_row_is_an_empty_result(self, client: Client) -> None:
        assert client.query("SELECT 1 AS a WHERE 0").result_rows == []

    def test_an_empty_arrow_result_has_its_columns(self, client: Client) -> None:
        assert client.query_arrow("SELECT 1 AS a, 'x' AS b WHERE 0").column_names == ["a", "b"]

    def test_a_result_of_many_blocks_is_whole_in_native(self, client: Client) -> None:
        numbers = client.query(f"SELECT number FROM numbers({ROWS_OF_MANY_BLOCKS})").result_columns[0]
        assert len(numbers) == ROWS_OF_MANY_BLOCKS
        assert sum(numbers) == ROWS_OF_MANY_BLOCKS * (ROWS_OF_MANY_BLOCKS - 1) // 2

    def test_a_result_of_many_blocks_is_one_arrow_stream(self, client: Client) -> None:
        query = f"SELECT number, toString(number) AS text FROM numbers({ROWS_OF_MANY_BLOCKS})"
        stream = pa.BufferReader(client.raw_query(query, fmt="ArrowStream"))
        answer = pa.ipc.open_stream(stream).read_all()
        assert answer["number"].to_pylist() == list(range(ROWS_OF_MANY_BLOCKS))
        assert answer["text"][-1].as_py() == str(ROWS_OF_MANY_BLOCKS - 1)
        assert stream.read() == b""  # and nothing after its end

    def test_json_rows_come_line_by_line(self, url: str) -> None:
        query = "SELECT number AS n FROM numbers(3) FORMAT JSONEachRow"
        answer = post(url, query, b"", output_format_json_quote_64bit_integers=1)
        assert [json.loads(line) for line in answer.text.splitlines()] == [{"n": "0"}, {"n": "1"}, {"n": "2"}]

    def test_a_statement_may_stand_in_the_body(self, url: str) -> None:
        assert post(url, "", b"SELECT 1 + 1").text == "2\n"

    def test_a_statement_longer_than_a_url_may_be(self, client: Client) -> None:
        assert client.query("SELECT length('" + "x" * 200_000 + "')").first_row[0] == 200_000

    def test_an_error_in_the_middle_of_a_long_answer_is_seen(self, client: Client) -> None:
        with pytest.raises((DatabaseError, StreamFailureError), match="FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"):
            client.query("SELECT throwIf(number = 1900000) FROM numbers(2000000)").result_columns  # noqa: B018 - it reads

    def test_an_error_in_mid_answer_stands_between_announced_marks(self, url: str) -> None:
        answer = send(url, "SELECT throwIf(number = 1900000) FROM numbers(2000000)", b"")
        tag = answer.headers["X-ClickHouse-Exception-Tag"]
        assert f"__exception__\r\n{tag}\r\nCode: 395." in answer.text
        assert answer.text.endswith(f" {tag}\r\n__exception__\r\n")


class TestParameters:
    def test_bound_values_keep_their_quotes_and_letters(self, client: Client) -> None:
        hostile = "a'b\\c\"d`;--\n\t{x:String}é"
        assert client.query("SELECT {value:String}", parameters={"value": hostile}).first_row[0] == hostile

    def test_types_are_honoured(self, client: Client) -> None:
        query = "SELECT {a:UInt64} + 1, {b:Decimal(38, 12)}, {c:Array(String)}, {d:DateTime64(6)}::String"
        values = {"a": 41, "b": Decimal("1.5"), "c": ["x", "y'z"], "d": "2026-01-01 00:00:00.000001"}
        row = client.query(query, parameters=values).first_row
        assert tuple(row) == (42, Decimal("1.500000000000"), ["x", "y'z"], "2026-01-01 00:00:00.000001")

    def test_identifiers_can_be_bound(self, client: Client, table: str) -> None:
        assert client.query("SELECT count() FROM {t:Identifier}", parameters={"t": table}).first_row[0] == 0

    def test_a_long_list_can_be_bound(self, client: Client) -> None:
        numbers = list(range(20_000))
        assert client.query("SELECT length({n:Array(UInt32)})", parameters={"n": numbers}).first_row[0] == 20_000

    def test_a_long_list_of_hostile_text_can_be_bound(self, client: Client) -> None:
        texts = [f"line\r\n--boundary é' {number}" for number in range(2_000)]
        assert client.query("SELECT {t:Array(String)}", parameters={"t": texts}).first_row[0] == texts

    def test_a_wrong_value_is_refused(self, client: Client) -> None:
        with pytest.raises(DatabaseError, match=r"Code: (457|72|27|6)\b"):
            client.query("SELECT {a:UInt8}", parameters={"a": "many"})


class TestSettings:
    def test_a_setting_holds_for_its_query_and_for_no_other(self, client: Client) -> None:
        query = "SELECT getSetting('max_block_size')"
        before = client.query(query).first_row[0]
        assert client.query(query, settings={"max_block_size": 4321}).first_row[0] == 4321
        assert client.query(query).first_row[0] == before

    def test_a_settings_clause_leaves_nothing_behind(self, client: Client) -> None:
        query = "SELECT getSetting('max_block_size')"
        before = client.query(query).first_row[0]
        assert client.query(f"{query} SETTINGS max_block_size = 4321").first_row[0] == 4321
        assert client.query(query).first_row[0] == before

    def test_set_and_use_leave_nothing_behind(self, client: Client, url: str) -> None:
        client.command("SET max_block_size = 1234")
        client.command("USE system")
        assert client.query("SELECT getSetting('max_block_size')").first_row[0] != 1234
        assert client.query("SELECT currentDatabase()").first_row[0] == urlsplit(url).path.strip("/")

    def test_text_settings_keep_their_quotes(self, client: Client) -> None:
        hostile = "a'b\\c é"
        query = "SELECT getSetting('log_comment')"
        assert client.query(query, settings={"log_comment": hostile}).first_row[0] == hostile

    def test_an_unknown_setting_is_an_error_of_clickhouse(self, url: str) -> None:
        answer = send(url, "SELECT 1", b"", no_such_setting=1)
        assert answer.code == "115"
        assert "UNKNOWN_SETTING" in answer.text


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "code", "name"),
        [
            ("SELEC 1", 62, "SYNTAX_ERROR"),
            ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
            ("SELECT nothing", 47, "UNKNOWN_IDENTIFIER"),
            ("SELECT * FROM nowhere.t", 81, "UNKNOWN_DATABASE"),
            ("SELECT intDiv(1, 0)", 153, "ILLEGAL_DIVISION"),
        ],
    )
    def test_code_and_text_are_clickhouses_own(self, client: Client, query: str, code: int, name: str) -> None:
        with pytest.raises(DatabaseError) as caught:
            client.query(query)
        assert caught.value.code == code
        assert name in str(caught.value)

    def test_a_connection_goes_on_after_an_error(self, client: Client) -> None:
        for _ in range(3):
            with pytest.raises(DatabaseError):
                client.insert("nowhere", [[1]], column_names=["id"], column_type_names=["UInt64"])
            with pytest.raises(DatabaseError):
                client.query("SELECT * FROM nowhere")
            assert client.query("SELECT 1").first_row[0] == 1

    def test_a_wrong_password_opens_nothing(self, url: str) -> None:
        answer = send(url, "SELECT 1", b"", {"Authorization": "Basic " + b64encode(b"default:wrong").decode()})
        assert answer.status in {401, 403}
        assert answer.code == "516"


class TestManyClients:
    def test_clients_at_once_each_get_their_own_answer(self, url: str) -> None:
        def ask(worker: int) -> bool:
            client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
            answers = [
                client.query("SELECT {n:UInt64}", parameters={"n": worker * 1_000 + turn}).first_row[0]
                for turn in range(25)
            ]
            client.close()
            return answers == [worker * 1_000 + turn for turn in range(25)]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(8)))

    def test_inserts_at_once_are_all_stored(self, url: str, client: Client, table: str) -> None:
        def insert(worker: int) -> None:
            body = arrow_stream(worker * 20_000, 20_000, 20_000)
            post(url, f"INSERT INTO {table} FORMAT ArrowStream", body, **SYNC)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(insert, range(6)))
        stored = client.query(f"SELECT count(), uniqExact(id) FROM {table}").first_row
        assert tuple(stored) == (120_000, 120_000)

    def test_a_slow_query_does_not_hold_up_others(self, url: str, client: Client) -> None:
        slow = threading.Thread(
            target=post, args=(url, "SELECT count() FROM numbers(3) WHERE sleepEachRow(0.5) = 0", b""),
            kwargs={"max_block_size": 1},
        )  # fmt: skip
        slow.start()
        for _ in range(5):
            assert client.query("SELECT 1").first_row[0] == 1
        assert slow.is_alive()
        slow.join()

    def test_databases_are_apart(self, url: str, client: Client) -> None:
        other = f"other_{uuid.uuid4().hex[:12]}"
        client.command(f"CREATE DATABASE {other}")
        client.command(f"CREATE TABLE {other}.t (id UInt64) ENGINE = MergeTree ORDER BY id")
        client.command(f"INSERT INTO {other}.t VALUES (1)")
        there = clickhouse_connect.get_client(dsn=urlsplit(url)._replace(path=f"/{other}").geturl())
        assert there.query("SELECT id FROM t").result_columns[0] == [1]
        with pytest.raises(DatabaseError, match="Code: 60"):
            client.query("SELECT id FROM t")
        there.close()
        client.command(f"DROP DATABASE {other}")
