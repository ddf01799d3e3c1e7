import pytest

from tests.ingestion_api.control.test_plans import FLAT, USAGE
from tests.ingestion_api.test_worked_example import FEATURE, METER
from tests.support.api import Api

SUPPORT = {**FLAT, "key": "support", "amount": "20"}
SETUP = {**FLAT, "key": "setup", "amount": "500", "billing_period": "once"}


@pytest.fixture
def catalog(api: Api) -> Api:
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    return api


def test_an_add_on_has_prices_and_entitlements_as_a_plan_has(catalog: Api) -> None:
    body = {
        "key": "support",
        "name": "Support",
        "currency": "USD",
        "prices": [SUPPORT, SETUP, USAGE],
        "entitlements": [{"feature": "tokens", "limit": "100"}],
    }
    addon = catalog.post("/v1/addons", body)
    assert (addon["object"], addon["version"]) == ("addon", 1)
    assert addon["id"].startswith("add_")
    assert [price["key"] for price in addon["prices"]] == ["support", "setup", "usage"]
    assert addon["prices"][1]["billing_period"] == "once"
    assert addon["entitlements"][0]["limit"] == "100"
    assert catalog.get("/v1/addons/support") == catalog.get(f"/v1/addons/{addon['id']}") == addon
    assert catalog.get("/v1/addons")["data"] == [addon]


def test_versions_of_an_add_on_stand_beside_each_other(catalog: Api) -> None:
    catalog.post("/v1/addons", {"key": "support", "currency": "USD", "prices": [SUPPORT]})
    second = catalog.post("/v1/addons/support/versions", {"prices": [{**SUPPORT, "amount": "25"}]})
    assert second["version"] == 2
    assert catalog.get("/v1/addons/support", version=1)["prices"][0]["amount"] == "20"
    assert [each["version"] for each in catalog.get("/v1/addons/support/versions")["data"]] == [2, 1]
    assert catalog.post("/v1/addons/none/versions", {}, status=404)["code"] == "addon.not_found"


def test_the_keys_of_plans_and_add_ons_are_apart(catalog: Api) -> None:
    catalog.post("/v1/plans", {"key": "support", "currency": "USD"})
    catalog.post("/v1/addons", {"key": "support", "currency": "USD"})
    assert catalog.post("/v1/addons", {"key": "support", "currency": "USD"}, status=409)["code"] == (
        "addon.already_exists"
    )
    assert [each["object"] for each in catalog.get("/v1/plans")["data"]] == ["plan"]
    assert [each["object"] for each in catalog.get("/v1/addons")["data"]] == ["addon"]
    assert catalog.get("/v1/plans/none", status=404)["code"] == "plan.not_found"


def test_the_price_of_an_add_on_is_checked_as_that_of_a_plan(catalog: Api) -> None:
    problem = catalog.post("/v1/addons", {"key": "x", "currency": "USD", "prices": [SUPPORT, SUPPORT]}, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("plan.duplicate_price", "/prices/1/key")
