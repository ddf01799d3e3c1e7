import threading
from typing import Any

import pytest

from tests.ingestion_api.test_worked_example import FEATURE, METER, PLAN
from tests.support.api import Api

FLAT = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
USAGE = {"key": "usage", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "0.01"}
PAYMENTS = {
    "key": "payments", "type": "usage", "meter": "tokens", "model": "percentage", "rate": "1", "fixed_amount": "0.3",
}  # fmt: skip


@pytest.fixture
def catalog(api: Api) -> Api:
    """A tenant with a metered, a boolean and a static feature."""
    api.post("/v1/meters", METER)
    api.post("/v1/meters", {"key": "requests", "event_type": "llm.request", "aggregation": "count"})
    api.post("/v1/features", FEATURE)
    api.post("/v1/features", {"key": "sso", "type": "boolean"})
    api.post("/v1/features", {"key": "region", "type": "static"})
    return api


def test_a_feature_is_metered_by_a_meter_and_the_others_by_none(catalog: Api) -> None:
    assert catalog.get("/v1/features/sso")["meter"] is None
    assert [each["key"] for each in catalog.get("/v1/features")["data"]] == ["region", "sso", "tokens"]
    assert catalog.post("/v1/features", FEATURE, status=409)["code"] == "feature.already_exists"
    for body, code in [
        ({"key": "x", "type": "metered"}, "feature.invalid_meter"),
        ({"key": "x", "type": "boolean", "meter": "tokens"}, "feature.invalid_meter"),
        ({"key": "x", "type": "metered", "meter": "none"}, "meter.not_found"),
    ]:
        problem = catalog.post("/v1/features", body, status=422)
        assert (problem["code"], problem["errors"][0]["pointer"]) == (code, "/meter")


def test_prices_are_kept_with_every_default_written_out(catalog: Api) -> None:
    plan = catalog.post("/v1/plans", {"key": "p", "currency": "USD", "prices": [FLAT, USAGE]})
    base, usage = plan["prices"]
    assert {name: base[name] for name in FLAT} == FLAT
    assert (base["timing"], base["billing_period"], base["billing_period_count"], base["prorate"]) == (
        "advance",
        "month",
        1,
        True,
    )
    assert (usage["timing"], usage["prorate"], usage["meter"]) == ("arrears", False, "tokens")
    assert catalog.get("/v1/plans/p") == catalog.get(f"/v1/plans/{plan['id']}") == plan


def test_a_meter_named_by_its_id_is_kept_by_its_key(catalog: Api) -> None:
    meter_id = catalog.get("/v1/meters/tokens")["id"]
    plan = catalog.post("/v1/plans", {"key": "p", "currency": "USD", "prices": [{**USAGE, "meter": meter_id}]})
    assert plan["prices"][0]["meter"] == "tokens"


TIERS = [{"up_to": "10", "unit_amount": "5"}, {"up_to": None, "unit_amount": "1"}]
MODELS: list[dict[str, Any]] = [
    {"model": "flat", "amount": "1"},
    {"model": "per_unit", "unit_amount": "1"},
    {"model": "package", "package_size": "10", "package_amount": "1"},
    {"model": "graduated", "tiers": TIERS},
    {"model": "volume", "tiers": TIERS},
    {"model": "stairstep", "tiers": [{"up_to": "10", "amount": "5"}, {"up_to": None, "amount": "9"}]},
    {"model": "percentage", "rate": "2.5"},
    {"model": "percentage", "rate": "2.5", "fixed_amount": "0.3", "free_transactions": 2},
    {"model": "graduated_percentage", "tiers": [{"up_to": None, "rate": "1"}]},
    {
        "model": "matrix",
        "dimensions": ["model"],
        "cells": [{"match": {"model": "m1"}, "unit_amount": "1"}],
        "default_unit_amount": "2",
    },
    {"model": "dynamic"},
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join([model["model"], *list(model)[2:]]))
def test_every_model_is_taken(catalog: Api, model: dict[str, Any]) -> None:
    price = {"key": "usage", "type": "usage", "meter": "tokens", **model}
    assert catalog.post("/v1/plans", {"key": "p", "currency": "USD", "prices": [price]})["prices"][0]["model"]


BAD_PRICES: list[tuple[dict[str, Any], str, str]] = [
    ({**FLAT, "model": "magic"}, "pricing.invalid_model", "/prices/1/model"),
    ({**FLAT, "amount": "1.0000000000001"}, "pricing.invalid_decimal", "/prices/1/amount"),
    ({**FLAT, "amount": 0.1}, "pricing.invalid_decimal", "/prices/1/amount"),
    ({**FLAT, "colour": "red"}, "request.unknown_field", "/prices/1/colour"),
    ({**FLAT, "currency": "EUR"}, "pricing.invalid_currency", "/prices/1/currency"),
    ({**USAGE, "meter": "none"}, "meter.not_found", "/prices/1/meter"),
    ({**USAGE, "timing": "advance"}, "pricing.invalid_field", "/prices/1/timing"),
    (
        {**USAGE, "bucket": "day", "bucket_aggregation": "max"},
        "pricing.unfit_meter",
        "/prices/1/bucket_aggregation",
    ),
    (
        {**USAGE, "changes": [{"at": "2030-01-01T00:00:00Z", "bucket": "day", "bucket_aggregation": "max"}]},
        "pricing.unfit_meter",
        "/prices/1/changes/0/bucket_aggregation",
    ),
    (
        {**USAGE, "bucket": "minute", "bucket_aggregation": "sum", "billing_period": "quarter"},
        "pricing.too_many_buckets",
        "/prices/1/bucket",
    ),
    ({**PAYMENTS, "meter": "requests"}, "pricing.unfit_meter", "/prices/1/model"),
    ({**PAYMENTS, "included_quantity": "1"}, "pricing.invalid_field", "/prices/1/included_quantity"),
    (
        {**PAYMENTS, "bucket": "day", "bucket_aggregation": "sum"},
        "pricing.invalid_field",
        "/prices/1/bucket",
    ),
    (
        {"key": "p", "type": "fixed", "model": "percentage", "rate": "1", "fixed_amount": "0.3"},
        "pricing.invalid_field",
        "/prices/1/model",
    ),
    (
        {
            "key": "m",
            "type": "usage",
            "meter": "tokens",
            "model": "matrix",
            "dimensions": ["region"],
            "cells": [{"match": {"region": "eu"}, "unit_amount": "1"}],
        },
        "plan.unknown_dimension",
        "/prices/1/dimensions",
    ),
    ({**FLAT, "key": "first"}, "plan.duplicate_price", "/prices/1/key"),
]


def test_a_price_may_change_with_a_date_and_stand_in_a_unit_of_its_own(catalog: Api) -> None:
    unit = {"code": "credits", "conversion_rate": "0.01"}
    changes = [{"at": "2030-01-01T02:00:00+02:00", "amount": "59"}]
    body = {"key": "p", "currency": "USD", "prices": [{**FLAT, "custom_unit": unit, "changes": changes}]}
    [price] = catalog.post("/v1/plans", body)["prices"]
    assert price["custom_unit"] == unit
    [change] = price["changes"]
    assert (change["at"], change["amount"], change["custom_unit"]) == ("2030-01-01T00:00:00Z", "59", unit)


@pytest.mark.parametrize(("price", "code", "pointer"), BAD_PRICES)
def test_a_bad_price_is_422_at_its_field(catalog: Api, price: dict[str, Any], code: str, pointer: str) -> None:
    body = {"key": "p", "currency": "USD", "prices": [{**FLAT, "key": "first"}, price]}
    problem = catalog.post("/v1/plans", body, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)
    assert catalog.get("/v1/plans")["data"] == []


def test_entitlements_are_kept_by_the_kind_of_their_feature(catalog: Api) -> None:
    entitlements: list[dict[str, Any]] = [
        {"feature": "tokens", "limit": None},
        {"feature": "sso", "value": False},
        {"feature": "region", "value": {"list": ["eu", 1.5, True]}},
    ]
    plan = catalog.post("/v1/plans", {"key": "p", "currency": "USD", "entitlements": entitlements})
    assert plan["entitlements"] == [
        {"feature": "tokens", "type": "metered", "limit": None, "reset": "billing_period", "enforcement": "hard"},
        {"feature": "sso", "type": "boolean", "value": False},
        {"feature": "region", "type": "static", "value": {"list": ["eu", 1.5, True]}},
    ]
    assert catalog.get("/v1/plans/p") == plan


BAD_ENTITLEMENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"feature": "none", "limit": "1"}, "feature.not_found", "feature"),
    ({"limit": "1"}, "plan.invalid_entitlement", "feature"),
    ({"feature": 5, "limit": "1"}, "plan.invalid_entitlement", "feature"),
    ({"feature": "tokens"}, "plan.invalid_entitlement", "limit"),
    ({"feature": "tokens", "limit": "-1"}, "plan.invalid_entitlement", "limit"),
    ({"feature": "tokens", "limit": "many"}, "plan.invalid_entitlement", "limit"),
    ({"feature": "tokens", "limit": "1e40"}, "plan.invalid_entitlement", "limit"),
    ({"feature": "tokens", "limit": True}, "plan.invalid_entitlement", "limit"),
    ({"feature": "tokens", "limit": "1", "value": 1}, "plan.invalid_entitlement", "value"),
    ({"feature": "tokens", "limit": "1", "reset": "fortnight"}, "plan.invalid_entitlement", "reset"),
    ({"feature": "tokens", "limit": "1", "reset": ["day"]}, "plan.invalid_entitlement", "reset"),
    ({"feature": "tokens", "limit": "1", "enforcement": "gentle"}, "plan.invalid_entitlement", "enforcement"),
    ({"feature": "tokens", "limit": None, "rollover_max": "5"}, "plan.invalid_entitlement", "rollover_max"),
    ({"feature": "tokens", "limit": "1", "colour": 1}, "request.unknown_field", "colour"),
    ({"feature": "sso", "value": "yes"}, "plan.invalid_entitlement", "value"),
    ({"feature": "sso", "limit": "1"}, "plan.invalid_entitlement", "limit"),
    ({"feature": "region"}, "plan.invalid_entitlement", "value"),
    ({"feature": "region", "value": "x" * 5000}, "plan.invalid_entitlement", "value"),
    ({"feature": "region", "value": "eu", "reset": "day"}, "plan.invalid_entitlement", "reset"),
    ({"feature": "first", "value": True}, "plan.duplicate_entitlement", "feature"),
]


@pytest.mark.parametrize(("entitlement", "code", "field"), BAD_ENTITLEMENTS)
def test_a_bad_entitlement_is_422_at_its_field(
    catalog: Api, entitlement: dict[str, Any], code: str, field: str
) -> None:
    catalog.post("/v1/features", {"key": "first", "type": "boolean"})
    body = {"key": "p", "currency": "USD", "entitlements": [{"feature": "first"}, entitlement]}
    problem = catalog.post("/v1/plans", body, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, f"/entitlements/1/{field}")


def test_a_number_that_writes_out_endlessly_is_refused(catalog: Api) -> None:
    content = b'{"key":"p","currency":"USD","entitlements":[{"feature":"region","value":[1e999999]}]}'
    response = catalog.http.post("/v1/plans", content=content)
    assert (response.status_code, response.json()["code"]) == (422, "plan.invalid_entitlement")


def test_a_static_number_keeps_every_digit_through_the_store(catalog: Api) -> None:
    number = b"12345678901234567890.123456789012"
    body = b'{"key":"p","currency":"USD","entitlements":[{"feature":"region","value":{"n":' + number + b"}}]}"
    assert number in catalog.http.post("/v1/plans", content=body).content
    assert number in catalog.http.get("/v1/plans/p").content


def test_a_version_stands_beside_those_before(catalog: Api) -> None:
    first = catalog.post("/v1/plans", PLAN)
    second = catalog.post("/v1/plans/pro/versions", {"prices": [FLAT]})
    assert (second["version"], len(second["prices"]), second["entitlements"]) == (2, 1, [])
    assert catalog.get("/v1/plans/pro") == second
    assert catalog.get("/v1/plans/pro", version=1) == first
    assert catalog.get("/v1/plans")["data"] == [second]
    page = catalog.get("/v1/plans/pro/versions", limit=1)
    assert (page["data"], page["has_more"]) == ([second], True)
    rest = catalog.get("/v1/plans/pro/versions", limit=1, starting_after=page["next_cursor"])
    assert (rest["data"], rest["has_more"]) == ([first], False)
    assert catalog.get("/v1/plans/pro", version=3, status=404)["code"] == "plan.not_found"
    assert catalog.post("/v1/plans", PLAN, status=409)["code"] == "plan.already_exists"


@pytest.mark.parametrize("version", ["0", "-1", "x", "99999999999999999999"])
def test_a_version_is_a_number_from_one(catalog: Api, version: str) -> None:
    catalog.post("/v1/plans", PLAN)
    catalog.get("/v1/plans/pro", version=version, status=422)


def test_versions_made_at_once_are_numbered_one_after_another(catalog: Api) -> None:
    catalog.post("/v1/plans", PLAN)
    versions: list[int] = []

    def make() -> None:
        versions.append(catalog.post("/v1/plans/pro/versions", {"prices": [FLAT]})["version"])

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == [2, 3, 4, 5, 6, 7]
