"""How an export travels: refused before its first byte, in parts of flat memory, and never whole when it broke off."""

import io
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import chain, islice

import polars as pl
import psutil
import pytest

from infra.postgres.exports import Exported, credit_notes, invoice_pages
from ingestion_api.exports import stream
from ingestion_api.exports.files import ROWS_AT_ONCE, csv_parts, parquet_parts
from ingestion_api.exports.focus import focus_rows
from ingestion_api.exports.focus_columns import FOCUS_COLUMNS
from ingestion_api.exports.invoices import LINE_COLUMNS, line_rows
from ingestion_api.exports.tables import Column, Kind, Values, guard
from schemas.errors import Reject
from tests.ingestion_api.exports.conftest import WIDE
from tests.support.api import Api
from tests.support.billing import ADVANCE, World, instant
from tests.support.invoice_copies import copy_invoice

COLUMNS = (Column("a", Kind.NUMBER), Column("b", Kind.TEXT))
INVOICES = 6_000
LINES = 3  # of each
#: What all rows of the test would take is several times this.
MOST_BYTES = 20 * 1024 * 1024


@pytest.mark.parametrize("name", ["invoices", "invoice_lines", "focus", "usage"])
@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("to=2026-01-01T00:00:00Z", "/from", "request.missing_field"),
        ("from=2026-01-01T00:00:00Z", "/to", "request.missing_field"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/to", "request.invalid_field"),
        ("from=2026-01-01&to=2026-01-02T00:00:00Z", "/from", "request.invalid_field"),
        ("from=0001-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "/from", "request.invalid_field"),
        (WIDE + "&format=xlsx", "/format", "request.invalid_field"),
        (WIDE + "&format=", "/format", "request.invalid_field"),
        (WIDE + "&customer=", "/customer", "request.invalid_field"),
        (WIDE + "&customer=a%00", "/customer", "request.invalid_field"),
        (WIDE + "&customer=" + "x" * 300, "/customer", "request.invalid_field"),
        (WIDE + "&limit=5", "/limit", "request.unknown_parameter"),
        (WIDE + "&format=csv&format=parquet", "/format", "request.repeated_parameter"),
    ],
)
def test_a_wrong_parameter_is_a_problem_that_names_it(api: Api, name: str, query: str, pointer: str, code: str) -> None:
    problem = api.get(f"/v1/exports/{name}?{query}", status=422)
    assert (problem["code"], [error["pointer"] for error in problem["errors"]]) == (code, [pointer])


@pytest.mark.parametrize("role", ["check", "ingest"])
def test_only_who_may_read_may_export(api: Api, role: str) -> None:
    secret = api.post("/v1/api_keys", {"name": role, "role": role})["secret"]
    assert api.with_key(secret).get(f"/v1/exports/invoices?{WIDE}").status_code == 403
    assert api.with_key(None).get(f"/v1/exports/invoices?{WIDE}").status_code == 401
    reader = api.post("/v1/api_keys", {"name": "reader", "role": "read"})["secret"]
    answer = api.with_key(reader).get(f"/v1/exports/invoices?{WIDE}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer.headers["content-disposition"] == 'attachment; filename="invoices.csv"'


def test_there_are_only_so_many_at_once_and_each_gives_its_place_back(api: Api) -> None:
    for _ in range(stream.MAX_RUNNING + 1):
        api.http.get(f"/v1/exports/invoices?{WIDE}").raise_for_status()
        api.get("/v1/exports/usage?from=1900-01-01T00:00:00Z&to=2199-01-01T00:00:00Z&window=hour", status=422)
    held = [stream.export("x", COLUMNS, iter(()), "csv") for _ in range(stream.MAX_RUNNING)]
    answer = api.http.get(f"/v1/exports/invoices?{WIDE}")
    assert (answer.status_code, answer.json()["code"]) == (503, "export.busy")
    assert int(answer.headers["retry-after"]) > 0
    for each in held:
        each.give_back()
    api.http.get(f"/v1/exports/invoices?{WIDE}").raise_for_status()


def test_a_parquet_file_whose_rows_broke_off_has_no_footer() -> None:
    def rows() -> Iterator[Values]:
        yield from [(Decimal(1), "x")] * ROWS_AT_ONCE
        raise RuntimeError("away")

    sink: list[bytes] = []
    with pytest.raises(RuntimeError, match="away"):
        sink.extend(parquet_parts(COLUMNS, rows()))
    written = b"".join(sink)
    assert written.startswith(b"PAR1")
    assert not written.endswith(b"PAR1")
    with pytest.raises(pl.exceptions.ComputeError):
        pl.read_parquet(io.BytesIO(written))


@pytest.mark.parametrize("number", ["1e26", "0.0000000000001", "-123456789012345678901234567.5"])
def test_a_number_that_a_column_can_not_hold_is_refused_and_never_rounded(number: str) -> None:
    with pytest.raises(Reject, match=r"export\.number_too_large"):
        list(parquet_parts(COLUMNS, [(Decimal(number), "x")]))
    assert format(Decimal(number), "f").encode() in b"".join(csv_parts(COLUMNS, [(Decimal(number), "x")]))


def test_the_largest_number_that_fits_comes_back_exactly() -> None:
    largest = Decimal("-99999999999999999999999999.999999999999")
    read = pl.read_parquet(io.BytesIO(b"".join(parquet_parts(COLUMNS, [(largest, None)]))))
    assert read.rows() == [(largest, None)]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n", " =1", "＝1", "'=1", "'"])
def test_a_text_that_would_begin_a_formula_gets_an_apostrophe_that_can_be_taken_away(text: str) -> None:
    assert guard(text) == "'" + text


@pytest.mark.parametrize("text", ["", "a=1", "Ünï", "1-2", "{}"])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert guard(text) == text


@pytest.fixture
def large(world: World) -> Exported:
    """A tenant with INVOICES final invoices more than one, of LINES lines each."""
    world.bill(world.subscribe(ADVANCE), now="2026-01-01")
    copy_invoice(world.doors.database, world.tenant_id, invoices=INVOICES, lines=LINES)
    return Exported(tenant_id=world.tenant_id, start=instant("2025-01-01"), end=instant("2027-01-01"))


def test_memory_is_flat_in_the_number_of_invoices_and_none_is_left_out(world: World, large: Exported) -> None:
    database = world.doors.database
    numbers = [row["number"] for page in invoice_pages(database, large) for row in page]
    assert len(numbers) == len(set(numbers)) == INVOICES + 1
    assert list(credit_notes(database, large)) == []
    parts: dict[str, Callable[[], Iterator[bytes]]] = {
        "csv": lambda: csv_parts(LINE_COLUMNS, line_rows(database, large)),
        "parquet": lambda: parquet_parts(FOCUS_COLUMNS, focus_rows(database, large)),
    }
    process, lines, grown = psutil.Process(), 0, 0
    for part in chain.from_iterable(islice(make(), 3) for make in parts.values()):
        assert part is not None  # what every export needs once
    before = process.memory_info().rss
    for name, make in parts.items():
        for part in make():
            lines += part.count(b"\r\n") if name == "csv" else 0
            grown = max(grown, process.memory_info().rss - before)
    assert lines == 1 + 1 + INVOICES * LINES
    assert grown < MOST_BYTES
