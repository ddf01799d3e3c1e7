"""`meterline export` against the running services."""

import csv
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from infra.postgres.pool import Database
from tests.support.invoice_copies import copy_invoice
from tests.support.services import Services

RANGE = ("--from", "2026-01-01T00:00:00Z", "--to", "2199-01-01T00:00:00Z")
AMOUNTS = ["1.50", "2.25"]


@pytest.fixture(scope="module")
def key(services: Services) -> str:
    """The key of a tenant with two invoices, of which one has a line of two lines of text."""
    key = services.new_tenant_key()
    with services.client(key) as api:
        assert api.post("/v1/customers", json={"external_id": "acme", "name": "Acme"}).status_code == 201
        for amount in AMOUNTS:
            lines = [{"description": f'two\nlines, "{amount}"', "amount": amount}]
            body = {"customer": "acme", "currency": "USD", "lines": lines}
            assert api.post("/v1/invoices", json=body).status_code == 201
    return key


def run(url: str, key: str, *options: str, dataset: str = "lines") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "infra.cli.app", "export", dataset, *RANGE, *options]
    command += ["--url", url, "--api-key", key]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_a_csv_file_has_all_rows_and_the_summary_counts_them(services: Services, key: str, tmp_path: Path) -> None:
    out = tmp_path / "lines.csv"
    done = run(services.url, key, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    with out.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["amount"] for row in rows] == AMOUNTS
    assert json.loads(done.stdout) == {
        "dataset": "lines",
        "format": "csv",
        "file": str(out),
        "rows": 2,
        "bytes": out.stat().st_size,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["lines.csv"]


@pytest.mark.parametrize("dataset", ["invoices", "focus", "usage"])
def test_a_parquet_file_is_read_by_others(services: Services, key: str, tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out.parquet"
    span = ("--to", "2026-03-01T00:00:00Z") if dataset == "usage" else ()
    done = run(services.url, key, "--out", str(out), "--format", "parquet", "--json", *span, dataset=dataset)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(out).height == json.loads(done.stdout)["rows"] == (0 if dataset == "usage" else 2)


def test_standard_output_takes_the_file_alone(services: Services, key: str) -> None:
    done = run(services.url, key, "--out", "-")
    assert done.returncode == 0
    assert done.stdout.startswith(b"line_id,")
    assert b"2 rows" in done.stderr


def test_a_refusal_is_said_and_leaves_the_file_that_was_there(services: Services, key: str, tmp_path: Path) -> None:
    out = tmp_path / "lines.csv"
    out.write_text("before")
    done = run(services.url, key, "--out", str(out), "--customer", "nobody")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"customer.not_found: ")
    assert out.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_answer_that_fails_on_its_way_ends_without_its_end(services: Services, tmp_path: Path) -> None:
    key = services.new_tenant_key()
    with services.client(key) as api:
        customer = api.post("/v1/customers", json={"external_id": "acme", "name": "Acme"}).json()
        lines = [{"description": "one", "amount": "1"}]
        api.post("/v1/invoices", json={"customer": "acme", "currency": "USD", "lines": lines}).raise_for_status()
    with closing(Database(services.settings.postgres_dsn, max_connections=1)) as database:
        with database.transaction() as connection:
            row = connection.execute("SELECT tenant_id FROM customers WHERE id = %s", (customer["id"],)).fetchone()
        assert row is not None
        copy_invoice(database, row["tenant_id"], invoices=15, lines=1_000, last_quantity=Decimal("1e30"))
    out = str(tmp_path / "lines")
    done = run(services.url, key, "--out", out, "--format", "parquet")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"broke off after" in done.stderr
    assert list(tmp_path.iterdir()) == []
    whole = run(services.url, key, "--out", out, "--json")
    assert json.loads(whole.stdout)["rows"] == 1 + 15_000
    assert pl.read_csv(out, infer_schema=False)["line_id"].n_unique() == 1 + 15_000


@contextmanager
def breaking_off() -> Generator[str]:
    """A server whose answer ends before its end, as that of one that dies does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\na\r\nb\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(30)


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_an_export_that_breaks_off_fails_and_leaves_nothing_behind(tmp_path: Path, file_format: str) -> None:
    with breaking_off() as url:
        done = run(url, "mtr_x", "--out", str(tmp_path / "out"), "--format", file_format)
    assert done.returncode == 1
    assert b"broke off after 5 bytes and is not complete" in done.stderr
    assert list(tmp_path.iterdir()) == []
