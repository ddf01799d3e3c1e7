"""Entitlements follow what happens to subscriptions, from that instant on; usage of a running period stays counted."""

from typing import Any

import pytest

from tests.ingestion_api.entitlements.test_checks import check, count
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER
from tests.support.api import Api

START = "2026-01-01T05:00:00Z"
TODAY = "2026-01-10T12:00:00Z"
FEE = {"key": "base", "type": "fixed", "model": "flat", "amount": "10"}


@pytest.fixture
def shop(api: Api) -> Api:
    """A small and a big plan and an add-on, all of which limit tokens; only the big one has sso."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    api.post("/v1/features", {"key": "sso", "type": "boolean"})
    api.post("/v1/features", {"key": "region", "type": "static"})
    for key, limit, more in (
        ("small", "100", [{"feature": "region", "value": "eu"}]),
        ("big", "1000", [{"feature": "sso"}, {"feature": "region", "value": "any"}]),
        ("boundless", None, []),
    ):
        entitlements: list[dict[str, Any]] = [{"feature": "tokens", "limit": limit}, *more]
        api.post("/v1/plans", {"key": key, "currency": "USD", "prices": [FEE], "entitlements": entitlements})
    api.post(
        "/v1/addons",
        {"key": "pack", "currency": "USD", "entitlements": [{"feature": "tokens", "limit": "50"}, {"feature": "sso"}]},
    )
    api.post("/v1/customers", CUSTOMER)
    return api


def subscribe(api: Api, plan: str = "small", **body: Any) -> str:
    with api.at(START):
        return api.post("/v1/subscriptions", {"customer": "acme", "plan": plan, **body})["id"]


def act(api: Api, subscription_id: str, action: str, at: str = TODAY, **body: Any) -> Any:
    with api.at(at):
        return api.post(f"/v1/subscriptions/{subscription_id}/{action}", body, status=200)


def test_limits_of_several_subscriptions_add_up_and_usage_counts_once(shop: Api) -> None:
    subscribe(shop)
    subscribe(shop, "big")
    count(shop, "tokens", START, "120")
    found = check(shop, "tokens", at=TODAY)
    assert (found["limit"], found["used"], found["remaining"]) == ("1100", "120", "980")
    assert check(shop, "sso", at=TODAY)["allowed"] is True
    assert check(shop, "region", at=TODAY)["value"] == "any"


def test_one_subscription_without_a_limit_makes_the_feature_unlimited(shop: Api) -> None:
    subscribe(shop)
    subscribe(shop, "boundless")
    count(shop, "tokens", START, "120")
    found = check(shop, "tokens", at=TODAY, quantity="1000000")
    assert (found["reason"], found["limit"], found["used"]) == ("unlimited", None, "120")
