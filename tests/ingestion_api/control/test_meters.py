from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from infra.postgres.catalogue import load_changes
from infra.postgres.meter_proofs import Finding, ProofKind, find_provable, record
from schemas.catalogue import EntryKind, MeterEntry
from schemas.filters import is_one_of
from tests.support.api import Api

METER = {"key": "tokens", "event_type": "llm.request", "aggregation": "sum", "value": "$.tokens"}


def entries_of(api: Api, meter_id: str) -> list[MeterEntry | None]:
    """The meter's entry as flows load it."""
    with api.database.transaction() as connection:
        row = connection.execute(
            "SELECT meters.no, tenants.no AS tenant_no FROM meters JOIN tenants ON tenants.id = tenant_id"
            " WHERE meters.id = %s",
            (meter_id,),
        ).fetchone()
        assert row is not None
        return [
            change.entry  # pyright: ignore[reportReturnType]
            for change in load_changes(connection, after=0, up_to=2**40)
            if (change.kind, change.tenant_no, change.key) == (EntryKind.METER, row["tenant_no"], f"{row['no']}:1")
        ]


def test_a_meter_keeps_what_was_asked_for(api: Api) -> None:
    body = {
        **METER,
        "name": "Tokens",
        "filters": [
            {"property": "$.region", "op": "in", "values": ["eu", "us"]},
            {"property": "$.tier", "op": "eq", "values": [2]},
            {"property": "$.live", "op": "eq", "values": [True]},
        ],
        "group_by": ["model", "region"],
        "metadata": {"team": "ml"},
    }
    meter = api.post("/v1/meters", body)
    assert {name: meter[name] for name in body} == body
    assert meter["revision"] == 1
    assert api.get("/v1/meters/tokens") == api.get(f"/v1/meters/{meter['id']}") == meter
    assert api.get("/v1/meters")["data"] == [meter]


def test_a_meter_shows_what_its_last_proof_found(api: Api) -> None:
    meter = api.post("/v1/meters", METER)
    assert meter["proof"] is None
    finding = Finding(kind=ProofKind.FULL, seqs={0: 1}, events=1, windows=1, drifted=0, examples=[])
    drift = replace(finding, drifted=2, examples=["missing: 1", "too many: 2"])
    proven_at = datetime(2026, 3, 10, tzinfo=UTC)
    with api.database.transaction() as connection:
        connection.execute("UPDATE meters SET is_built = true WHERE id = %s", (meter["id"],))
        [provable] = find_provable(connection, reference=meter["id"], limit=2)
        record(connection, provable, finding, repair=False, now=proven_at)
    shown = api.get("/v1/meters/tokens")
    assert shown["proof"] == {"ok": True, "at": "2026-03-10T00:00:00Z", "detail": None}
    with api.database.transaction() as connection:
        record(connection, provable, drift, repair=False, now=proven_at + timedelta(hours=1))
        record(
            connection,
            provable,
            replace(finding, kind=ProofKind.RECENT),
            repair=False,
            now=proven_at + timedelta(hours=2),
        )
    shown = api.get("/v1/meters/tokens")
    detail = "2 rows of windows differ; missing: 1; too many: 2"
    assert shown["proof"] == {"ok": False, "at": "2026-03-10T02:00:00Z", "detail": detail}
    assert api.get("/v1/meters")["data"] == [shown]


def test_flows_learn_of_a_meter_with_exact_filter_values(api: Api) -> None:
    content = (
        b'{"key": "m", "event_type": "t", "aggregation": "count",'
        b' "filters": [{"property": "$.x", "op": "in", "values": [0.1, "0.1", 12345678901234567890.123456789012]}]}'
    )
    response = api.http.post("/v1/meters", content=content)
    assert response.status_code == 201
    assert b'[0.1,"0.1",12345678901234567890.123456789012]' in response.content
    [entry] = entries_of(api, response.json()["id"])
    assert entry is not None
    values = entry.filters[0].values
    assert is_one_of(Decimal("0.10"), values)
    assert is_one_of("0.1", values)
    assert is_one_of(Decimal("12345678901234567890.123456789012"), values)
    assert not is_one_of(Decimal("12345678901234567890.123456789013"), values)


def test_an_archived_meter_is_gone_for_flows_and_stays_readable(api: Api) -> None:
    meter = api.post("/v1/meters", METER)
    archived = api.post("/v1/meters/tokens/archive", {}, status=200)
    assert archived["archived_at"] is not None
    assert entries_of(api, meter["id"]) == [None]
    assert api.get("/v1/meters")["data"] == []
    assert api.get("/v1/meters/tokens")["archived_at"] == archived["archived_at"]
    assert api.get("/v1/meters", archived="true")["data"] == [archived]


@pytest.mark.parametrize("user", ["feature", "price"])
def test_a_meter_in_use_is_not_archived(api: Api, user: str) -> None:
    api.post("/v1/meters", METER)
    if user == "feature":
        api.post("/v1/features", {"key": "f", "type": "metered", "meter": "tokens"})
    else:
        price = {"key": "u", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "1"}
        api.post("/v1/plans", {"key": "p", "currency": "USD", "prices": [price]})
    assert api.post("/v1/meters/tokens/archive", {}, status=409)["code"] == "meter.in_use"


def test_an_archived_meter_takes_no_new_feature(api: Api) -> None:
    api.post("/v1/meters", METER)
    api.post("/v1/meters/tokens/archive", {}, status=200)
    body = {"key": "f", "type": "metered", "meter": "tokens"}
    assert api.post("/v1/features", body, status=422)["code"] == "meter.not_found"


def test_a_key_exists_once(api: Api) -> None:
    api.post("/v1/meters", METER)
    assert api.post("/v1/meters", METER, status=409)["code"] == "meter.already_exists"


def test_a_group_may_be_written_as_a_path(api: Api) -> None:
    assert api.post("/v1/meters", {**METER, "group_by": ["$.model", "user-id"]})["group_by"] == ["model", "user-id"]


@pytest.mark.parametrize("aggregation", ["min", "max", "avg", "latest", "unique_count", "weighted_sum"])
def test_every_aggregation_is_taken(api: Api, aggregation: str) -> None:
    assert api.post("/v1/meters", {**METER, "aggregation": aggregation})["aggregation"] == aggregation


def test_every_operator_is_taken_and_exists_means_true(api: Api) -> None:
    filters = [{"property": "$.x", "op": op, "values": [1]} for op in ("ne", "not_in", "gt", "gte", "lt", "lte")]
    made = api.post("/v1/meters", {**METER, "filters": [*filters, {"property": "$.x", "op": "exists"}]})
    assert made["filters"] == [*filters, {"property": "$.x", "op": "exists", "values": [True]}]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"key": ""}, "request.invalid_field", "/key"),
    ({"key": "two words"}, "request.invalid_field", "/key"),
    ({"key": "-x"}, "request.invalid_field", "/key"),
    ({"key": "x" * 101}, "request.invalid_field", "/key"),
    ({"aggregation": "median"}, "request.invalid_field", "/aggregation"),
    ({"event_type": ""}, "request.invalid_field", "/event_type"),
    ({"value": None}, "meter.invalid_value", "/value"),
    ({"value": "tokens"}, "meter.invalid_value", "/value"),
    ({"value": "$.a / $.b"}, "meter.invalid_value", "/value"),
    ({"value": "$.a + $.b", "aggregation": "unique_count"}, "meter.invalid_value", "/value"),
    ({"value": "$"}, "meter.invalid_value", "/value"),
    ({"aggregation": "count"}, "meter.invalid_value", "/value"),
    ({"filters": [{"property": "region", "op": "eq", "values": ["x"]}]}, "meter.invalid_filter", "/filters/0/property"),
    ({"filters": [{"property": "$.x", "op": "eq", "values": []}]}, "meter.invalid_filter", "/filters/0/values"),
    ({"filters": [{"property": "$.x", "op": "eq", "values": [1, 2]}]}, "meter.invalid_filter", "/filters/0/values"),
    ({"filters": [{"property": "$.x", "op": "in"}]}, "meter.invalid_filter", "/filters/0/values"),
    ({"filters": [{"property": "$.x", "op": "in", "values": [None]}]}, "request.invalid_field", "/filters/0/values/0"),
    ({"filters": [{"property": "$.x", "op": "in", "values": [[]]}]}, "request.invalid_field", "/filters/0/values/0"),
    ({"filters": [{"property": "$.x", "op": "in", "values": [10**38]}]}, "meter.invalid_filter", "/filters/0/values/0"),
    ({"filters": [{"property": "$.x", "op": "eq", "values": [1], "x": 1}]}, "request.unknown_field", "/filters/0/x"),
    ({"group_by": ["a", "a"]}, "meter.invalid_group_by", "/group_by/1"),
    ({"group_by": ["$.a.b"]}, "meter.invalid_group_by", "/group_by/0"),
    ({"group_by": ["customer"]}, "meter.invalid_group_by", "/group_by/0"),
    ({"group_by": ["a", "b", "c", "d", "e", "f"]}, "request.invalid_field", "/group_by"),
]


@pytest.mark.parametrize(("change", "code", "pointer"), BAD)
def test_a_bad_meter_is_422_at_its_field(api: Api, change: dict[str, Any], code: str, pointer: str) -> None:
    problem = api.post("/v1/meters", {**METER, **change}, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)


def test_a_filter_value_with_a_huge_exponent_is_refused(api: Api) -> None:
    filters = [{"property": "$.x", "op": "eq", "values": [0]}]
    content = msgspec.json.encode({**METER, "filters": filters}).replace(b"[0]", b"[1e400]")
    response = api.http.post("/v1/meters", content=content)
    assert (response.status_code, response.json()["code"]) == (422, "meter.invalid_filter")
