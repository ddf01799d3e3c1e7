"""Whatever names an object is looked up in the asking tenant alone: another tenant's id is a 404, never a 403."""

import re
from typing import Any

import pytest

from ingestion_api.app import build_app
from tests.ingestion_api.test_worked_example import make_example
from tests.support.api import Api

OPERATIONS = [
    (method.upper(), path)
    for path, operations in sorted(build_app().openapi()["paths"].items())
    for method in operations
    if "{" in path and path.startswith("/v1/")  # the others have tests of their own
]

BODIES: dict[str, Any] = {
    "/v1/subscriptions/{subscription}/cancel": {"at": "now"},
    "/v1/subscriptions/{subscription}/change": {"quantities": {"seats": "5"}},
    "/v1/plans/{plan}/versions": {"prices": []},
    "/v1/customers/{customer}/entitlements": {"feature": "tokens", "limit": "1"},
    "/v1/test_clocks/{test_clock}/advance": {"to": "2026-02-01T00:00:00Z"},
    "/v1/wallets/{wallet}/grants": {"amount": "5"},
    "/v1/wallets/{wallet}/top_up": {"amount": "5"},
    "/v1/customers/{customer}/payment_method": {
        "provider": "stripe",
        "customer": "cus_1",
        "payment_method": "pm_1",
    },
}


@pytest.fixture(scope="module")
def ids(operator: Api) -> dict[str, str]:
    """An object of every kind, of another tenant."""
    other = operator.new_tenant()
    subscription = make_example(other)
    other.post("/v1/addons", {"key": "support", "currency": "USD"})
    other.post("/v1/coupons", {"key": "half", "percent": "50", "duration": "once"})
    other.post("/v1/tax_rates", {"key": "vat", "name": "VAT", "percent": "19", "inclusive": False})
    clock = other.post("/v1/test_clocks", {"now": "2026-01-01T00:00:00Z"})
    wallet = other.post("/v1/wallets", {"customer": "acme", "currency": "USD"})
    grant = other.post(f"/v1/wallets/{wallet['id']}/grants", {"amount": "5"})
    hook = {"url": "http://93.184.216.34/", "events": ["*"]}
    endpoint = other.post("/v1/webhook_endpoints", hook)["id"]
    return {
        "webhook_endpoint": endpoint,
        "webhook_delivery": other.post(f"/v1/webhook_endpoints/{endpoint}/test", {})["id"],
        "addon": other.get("/v1/addons/support")["id"],
        "coupon": other.get("/v1/coupons/half")["id"],
        "tax_rate": other.get("/v1/tax_rates/vat")["id"],
        "test_clock": clock["id"],
        "clock": clock["id"],
        "wallet": wallet["id"],
        "grant": grant["id"],
        "credit_note": "crn_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f",
        "payment": "pay_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f",
        "refund": "ref_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f",
        "customer": other.get("/v1/customers/acme")["id"],
        "meter": other.get("/v1/meters/tokens")["id"],
        "feature": other.get("/v1/features/tokens")["id"],
        "entitlement": other.post("/v1/customers/acme/entitlements", {"feature": "tokens", "limit": "1"})["id"],
        "plan": other.get("/v1/plans/pro")["id"],
        "subscription": subscription,
        "api_key": other.get("/v1/api_keys")["data"][0]["id"],
        "invoice": "inv_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f",
        "event_id": "r-1",
        "alert": other.post("/v1/alerts", {"meter": "tokens", "threshold": "5"})["id"],
        "reservation": "rsv_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f",
    }


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_another_tenants_object_is_not_found(api: Api, ids: dict[str, str], method: str, path: str) -> None:
    names = re.findall(r"{(\w+)}", path)
    response = api.http.request(
        method,
        path.format(**{name: ids[name] for name in names}),
        json=BODIES.get(path, {}) if method in ("POST", "PATCH", "PUT") else None,
    )
    assert response.status_code == 404, response.text
    assert response.json()["code"].endswith(".not_found")


REFERENCES = [
    ("/v1/features", {"key": "f", "type": "metered", "meter": "{meter}"}, 422),
    (
        "/v1/plans",
        {
            "key": "p",
            "currency": "USD",
            "prices": [
                {"key": "u", "type": "usage", "meter": "{meter}", "model": "per_unit", "unit_amount": "1"},
            ],
        },
        422,
    ),
    ("/v1/plans", {"key": "p", "currency": "USD", "entitlements": [{"feature": "{feature}", "limit": "1"}]}, 422),
    ("/v1/subscriptions", {"customer": "{customer}", "plan": "{plan}"}, 404),
    ("/v1/customers", {"external_id": "child", "parent": "{customer}"}, 422),
    ("/v1/alerts", {"meter": "{meter}", "threshold": "1"}, 422),
    ("/v1/alerts", {"feature": "{feature}", "threshold": {"percent": "50"}}, 422),
    ("/v1/alerts", {"subscription": "{subscription}", "threshold": "1"}, 422),
    ("/v1/alerts", {"meter": "tokens", "customer": "{customer}", "threshold": "1"}, 422),
    ("/v1/entitlements/check", {"customer": "{customer}", "feature": "{feature}"}, 404),
    ("/v1/entitlements/check", {"checks": [{"customer": "{customer}", "feature": "{feature}"}]}, 404),
    ("/v1/entitlements/reserve", {"customer": "{customer}", "feature": "{feature}", "quantity": "1"}, 404),
]


def fill(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: fill(item, ids) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, ids) for item in value]
    return value.format(**ids) if isinstance(value, str) else value


@pytest.mark.parametrize(("path", "body", "status"), REFERENCES)
def test_another_tenants_object_can_not_be_referred_to(
    api: Api, ids: dict[str, str], path: str, body: Any, status: int
) -> None:
    problem = api.post(path, fill(body, ids), status=status)
    assert problem["code"].endswith(".not_found")


@pytest.mark.parametrize(
    "kind", ["customers", "meters", "features", "entitlements", "plans", "addons", "coupons", "subscriptions", "alerts"]
)
def test_a_list_has_nothing_of_another_tenant(api: Api, ids: dict[str, str], kind: str) -> None:
    assert ids
    assert api.get(f"/v1/{kind}") == {"object": "list", "data": [], "has_more": False, "next_cursor": None}


@pytest.mark.parametrize("filter_", ["customer", "plan"])
def test_a_filter_by_another_tenants_object_is_not_found(api: Api, ids: dict[str, str], filter_: str) -> None:
    problem = api.get("/v1/subscriptions", status=404, **{filter_: ids[filter_]})
    assert problem["code"] == f"{filter_}.not_found"


def test_two_tenants_may_use_the_same_names(operator: Api) -> None:
    first, second = operator.new_tenant(), operator.new_tenant()
    assert make_example(first) != make_example(second)
