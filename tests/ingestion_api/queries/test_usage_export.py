"""`GET /v1/exports/usage` out of real ClickHouse: the rows of `GET /v1/usage`, meter by meter."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ingestion_api.exports import usage
from ingestion_api.exports.tables import guard
from schemas.errors import Retry
from tests.ingestion_api.exports.conftest import frame, table
from tests.ingestion_api.queries.conftest import Tenant
from tests.ingestion_api.queries.test_usage import DAY, call
from tests.support.api import Api

SPAN = "from=2026-03-07T05:00:00Z&to=2026-03-11T04:00:00Z"
NEW_YORK = SPAN + "&timezone=America/New_York"
FORMULA = "=1+1"


@pytest.fixture
def used(tenant: Tenant) -> Tenant:
    """Four days round the start of daylight saving in New York, 8 March 2026."""
    tenant.store(
        [
            call(tenant, "1", "acme", DAY, "10", "m1"),
            call(tenant, "2", "acme", DAY + timedelta(hours=1), "0.000000000001", FORMULA),
            call(tenant, "3", "acme", DAY + timedelta(days=1, hours=16, minutes=30), "-3", None),
            call(tenant, "4", "umbrella", DAY + timedelta(days=3), "1e3", "m1"),
        ],
        redo=True,
    )
    return tenant


def from_api(api: Api, window: str, meter: str, group_by: str) -> list[tuple[Any, ...]]:
    """What the JSON API says of a meter, in the columns of the export."""
    asked = {"meter": meter, "window": window, "timezone": "America/New_York", "group_by": group_by}
    asked |= {"from": "2026-03-07T05:00:00Z", "to": "2026-03-11T04:00:00Z"}
    answer = api.http.get("/v1/usage", params=asked).json()
    return [
        (meter, row["customer"], row["group"], row["window_start"], row["window_end"], row["value"])
        for row in answer["data"]
    ]


@pytest.mark.parametrize("window", ["day", "hour"])
@pytest.mark.parametrize("rows_a_query", [5_000, 1])
def test_every_row_is_one_of_the_api_whatever_the_pages(
    used: Tenant, window: str, rows_a_query: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ROWS_A_QUERY", rows_a_query)
    rows = table(used.api, "usage", f"{NEW_YORK}&window={window}")
    exported = [
        (row["meter"], row["customer"], json.loads(row["group"]), row["window_start"], row["window_end"], row["value"])
        for row in rows
    ]
    expected = from_api(used.api, window, "calls", "customer")
    expected += from_api(used.api, window, "tokens", "customer,model")
    assert exported == expected
    assert len(exported) == (7 if window == "day" else 8)
    assert "1e-12" not in {row["value"] for row in rows}
    assert Decimal("0.000000000001") in {Decimal(row["value"]) for row in rows}


def test_one_customer_and_one_meter_can_be_asked_for(used: Tenant) -> None:
    rows = table(used.api, "usage", f"{SPAN}&customer=acme&meter=calls")
    assert {(row["meter"], row["customer"], row["group"]) for row in rows} == {("calls", "acme", "{}")}
    assert sum(Decimal(row["value"]) for row in rows) == 3


def test_parquet_has_the_same_numbers_exactly(used: Tenant) -> None:
    read, rows = frame(used.api, "usage", NEW_YORK), table(used.api, "usage", NEW_YORK)
    assert [Decimal(row["value"]) for row in rows] == read["value"].to_list()
    assert {group for group in read["group"] if FORMULA in group} == {json.dumps({"model": FORMULA})}
    assert guard(FORMULA) not in {row["group"] for row in rows}  # JSON begins with a brace, not with a formula


def test_what_is_complete_stands_in_every_row(used: Tenant) -> None:
    as_of = used.api.get("/v1/usage", meter="tokens")["as_of"]
    assert {row["as_of"] for row in table(used.api, "usage", SPAN)} == {as_of or ""}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("&meter=nothing", 404, "meter.not_found"),
        ("&window=month", 422, "request.invalid_field"),
        ("&timezone=Mars", 422, "request.invalid_field"),
        ("&group_by=model", 422, "request.unknown_parameter"),
    ],
)
def test_a_wrong_parameter_of_usage_is_refused_before_the_first_byte(
    used: Tenant, query: str, status: int, code: str
) -> None:
    assert used.api.get(f"/v1/exports/usage?{SPAN}{query}", status=status)["code"] == code


def test_another_tenants_meter_is_not_found(used: Tenant, operator: Api) -> None:
    other = operator.new_tenant()
    meter = used.api.get("/v1/meters/tokens")["id"]
    assert other.get(f"/v1/exports/usage?{SPAN}&meter={meter}", status=404)["code"] == "meter.not_found"
    assert table(other, "usage", SPAN) == []


def test_a_meter_that_was_built_anew_meanwhile_ends_the_export_without_its_end(used: Tenant) -> None:
    found = used.api.get("/v1/meters/tokens")
    meter = usage.ExportedMeter(key="tokens", entry=used.meters["tokens"], as_of=None)
    with used.api.database.transaction() as connection:
        connection.execute("UPDATE meters SET revision = revision + 1 WHERE id = %s", (found["id"],))
    with pytest.raises(Retry, match=r"export\.meter_changed"):
        usage.check_unchanged(used.api.database, meter)
