"""Where an INSERT ends and its data begins."""

import pytest

from infra.local.clickhouse_statements import leaves_traces, only_reads, output_format, parse_insert


@pytest.mark.parametrize(
    ("text", "statement", "name", "data"),
    [
        (b"INSERT INTO t FORMAT Native\nDATA", "INSERT INTO t ", "Native", b"DATA"),
        (b"insert into t (a, b) format ArrowStream", "insert into t (a, b) ", "ArrowStream", b""),
        (b"INSERT INTO t FORMAT TSV\r\n\n1", "INSERT INTO t ", "TSV", b"\n1"),
        (b"INSERT INTO t FORMAT JSONEachRow {}", "INSERT INTO t ", "JSONEachRow", b"{}"),
        (b"INSERT INTO t SETTINGS a=1 FORMAT CSV\n1", "INSERT INTO t SETTINGS a=1 ", "CSV", b"1"),
        (b'INSERT INTO `FORMAT x` (`)`, "FORMAT") FORMAT A\n1', 'INSERT INTO `FORMAT x` (`)`, "FORMAT") ', "A", b"1"),
        (b"/* FORMAT a */INSERT INTO t -- FORMAT b\nFORMAT A\n", "/* FORMAT a */INSERT INTO t -- FORMAT b\n", "A", b""),
        (b"INSERT INTO t (a) FORMAT CSV\nFORMAT", "INSERT INTO t (a) ", "CSV", b"FORMAT"),
    ],
)  # fmt: skip
def test_an_insert_is_split_before_its_format_and_after_the_line(
    text: bytes, statement: str, name: str, data: bytes
) -> None:
    insert = parse_insert(text)
    assert insert is not None
    assert (insert.statement, insert.format, text[insert.data_at :]) == (statement, name, data)


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t VALUES ('FORMAT x')",
        b"INSERT INTO t SELECT * FROM s FORMAT CSV",
        b"INSERT INTO t WITH 1 AS a SELECT a",
        b"INSERT INTO t (a)",
        b"",
        b"'INSERT' INTO t FORMAT CSV",
    ],
)
def test_other_statements_are_not_split(text: bytes) -> None:
    assert parse_insert(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SELECT 1 FORMAT Native", "Native"),
        ("SELECT 1\nformat JSON ;\n", "JSON"),
        ("SELECT 1 FORMAT CSV SETTINGS a = 1", "CSV"),
        ("SELECT 'FORMAT CSV'", None),
        ("SELECT 1", None),
    ],
)
def test_the_last_format_of_a_query_is_its_output(text: str, name: str | None) -> None:
    assert output_format(text) == name


def test_set_use_and_temporary_tables_leave_traces() -> None:
    assert all(map(leaves_traces, (b"set a = 1", b" -- x\nUSE db", b"CREATE TEMPORARY TABLE t (a UInt8)")))
    assert not any(map(leaves_traces, (b"SELECT 1", b"CREATE TABLE t (a UInt8)", b"SETTINGS")))


def test_only_selects_read() -> None:
    assert all(map(only_reads, (b"select 1", b"WITH 1 AS a SELECT a", b"/* INSERT */ SELECT 1")))
    assert not any(map(only_reads, (b"INSERT INTO t VALUES (1)", b"DROP TABLE t", b"")))
