"""The worked example of the public contract, as far as the control plane goes."""

from tests.support.api import Api

METER = {
    "key": "tokens",
    "event_type": "llm.request",
    "aggregation": "sum",
    "value": "$.tokens",
    "group_by": ["model"],
}
FEATURE = {"key": "tokens", "name": "Tokens", "type": "metered", "meter": "tokens"}
PLAN = {
    "key": "pro",
    "name": "Pro",
    "currency": "USD",
    "prices": [
        {
            "key": "base",
            "type": "fixed",
            "model": "flat",
            "amount": "49",
            "billing_period": "month",
            "timing": "advance",
        },
        {
            "key": "seats",
            "type": "fixed",
            "model": "per_unit",
            "unit_amount": "10",
            "billing_period": "month",
            "timing": "advance",
        },
        {
            "key": "tokens",
            "type": "usage",
            "meter": "tokens",
            "model": "graduated",
            "billing_period": "month",
            "tiers": [
                {"up_to": "1000000", "unit_amount": "0.000002"},
                {"up_to": None, "unit_amount": "0.0000015"},
            ],
        },
    ],
    "entitlements": [{"feature": "tokens", "limit": "5000000", "reset": "billing_period", "enforcement": "hard"}],
}
CUSTOMER = {
    "external_id": "acme",
    "name": "Acme",
    "currency": "USD",
    "timezone": "America/New_York",
    "subjects": ["acme-prod"],
}
SUBSCRIPTION = {
    "customer": "acme",
    "plan": "pro",
    "start_at": "2026-01-01T05:00:00Z",
    "quantities": {"seats": "3"},
}


def make_example(api: Api) -> str:
    """Everything of the example up to the subscription, whose id is returned."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    api.post("/v1/plans", PLAN)
    api.post("/v1/customers", CUSTOMER)
    return api.post("/v1/subscriptions", SUBSCRIPTION)["id"]


def test_every_object_of_the_worked_example_is_made_as_the_contract_says(api: Api) -> None:
    meter = api.post("/v1/meters", METER)
    assert {name: meter[name] for name in METER} == METER
    assert meter["object"] == "meter"
    assert meter["name"] == "tokens"
    assert meter["id"].startswith("met_")
    feature = api.post("/v1/features", FEATURE)
    assert feature["meter"] == "tokens"
    plan = api.post("/v1/plans", PLAN)
    assert plan["version"] == 1
    assert [price["key"] for price in plan["prices"]] == ["base", "seats", "tokens"]
    assert plan["prices"][2]["tiers"][1]["unit_amount"] == "0.0000015"
    assert plan["entitlements"] == [
        {"feature": "tokens", "type": "metered", "limit": "5000000", "reset": "billing_period", "enforcement": "hard"}
    ]
    customer = api.post("/v1/customers", CUSTOMER)
    assert {name: customer[name] for name in CUSTOMER} == CUSTOMER
    subscription = api.post("/v1/subscriptions", SUBSCRIPTION)
    assert subscription["status"] == "active"
    assert subscription["customer"] == "acme"
    assert subscription["plan"] == "pro"
    assert subscription["plan_version"] == 1
    assert subscription["quantities"] == {"seats": "3"}
    assert subscription["start_at"] == subscription["billing_anchor"] == "2026-01-01T05:00:00Z"
    assert subscription["next_bill_at"] == "2026-01-01T05:00:00Z"


def test_a_check_before_any_usage_has_the_whole_limit_left(api: Api) -> None:
    make_example(api)
    check = api.post("/v1/entitlements/check", {"customer": "acme", "feature": "tokens", "quantity": "500"}, status=200)
    assert check["allowed"] is True
    assert check["reason"] == "within_limit"
    assert (check["limit"], check["used"], check["reserved"], check["remaining"]) == ("5000000", "0", "0", "5000000")
    assert check["period"]["start"].endswith("-01T04:00:00Z") or check["period"]["start"].endswith("-01T05:00:00Z")
