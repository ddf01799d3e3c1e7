"""Whatever is sent, the answer is a success or a problem with a code, and never a 500."""

import json
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from ingestion_api.app import build_app
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER, PLAN, SUBSCRIPTION, make_example
from tests.support.api import Api

#: Of any field, the short suite tries one hostile value in so many, each field others; the long suite tries all.
SHARE = 4
EXAMPLES_AN_OPERATION = 6
MANY_EXAMPLES_AN_OPERATION = 50
DESCRIPTION = build_app().openapi()

GOOD: list[tuple[str, str, Any]] = [
    ("POST", "/v1/meters", {**METER, "filters": [{"property": "$.x", "op": "in", "values": [1, "a"]}]}),
    ("POST", "/v1/features", {**FEATURE, "on_unknown": "open"}),
    ("POST", "/v1/plans", PLAN),
    ("POST", "/v1/plans/{plan}/versions", {"prices": PLAN["prices"][:1]}),
    ("POST", "/v1/customers", CUSTOMER),
    ("POST", "/v1/webhook_endpoints", {"url": "http://93.184.216.34/", "events": ["invoice.*"], "description": "x"}),
    ("POST", "/v1/webhook_endpoints/{webhook_endpoint}/rotate_secret", {"old_secret_seconds": 60}),
    (
        "PUT",
        "/v1/payment_providers/stripe",
        {"secret_key": "sk_test_abcdefgh1234", "webhook_secret": "whsec_abcdefgh1234"},
    ),
    (
        "PUT",
        "/v1/customers/acme/payment_method",
        {"provider": "stripe", "customer": "cus_1", "payment_method": "pm_1"},
    ),
    ("PATCH", "/v1/customers/acme", {"name": "x", "metadata": {"a": "b"}, "subjects": ["y"]}),
    (
        "POST",
        "/v1/subscriptions",
        {
            **SUBSCRIPTION,
            "billing_anchor": "2026-01-01T05:00:00Z",
            "end_at": "2027-01-01T05:00:00Z",
            "plan_version": 1,
            "price_overrides": {"seats": {"model": "per_unit", "unit_amount": "8"}},
            "entitlement_overrides": {"tokens": {"limit": "6000000", "rollover_max": "5"}},
            "discounts": [{"percent": "10"}],
            "commitment": {"amount": "100", "true_up": True},
        },
    ),
    ("POST", "/v1/subscriptions/{subscription}/cancel", {"at": "now", "proration": "prorate", "preview": True}),
    ("POST", "/v1/alerts", {"meter": "tokens", "threshold": {"amount": "5"}, "period": "day", "metadata": {"a": "b"}}),
    ("PATCH", "/v1/features/tokens", {"name": "x", "on_unknown": "open", "metadata": {"a": "b"}}),
    (
        "POST",
        "/v1/customers/acme/entitlements",
        {"feature": "tokens", "limit": "5", "reset": "day", "enforcement": "soft", "ends_at": "2027-01-01T00:00:00Z"},
    ),
    ("POST", "/v1/entitlements/check", {"customer": "acme", "feature": "tokens", "quantity": "1"}),
    ("POST", "/v1/entitlements/check", {"checks": [{"customer": "acme", "feature": "tokens", "quantity": "1"}]}),
    (
        "POST",
        "/v1/entitlements/reserve",
        {"customer": "nobody", "feature": "tokens", "quantity": "1", "ttl_seconds": 9, "metadata": {"a": "b"}},
    ),
    ("POST", "/v1/reservations/none/commit", {"event": {"id": "1", "type": "t", "subject": "acme", "data": {"a": 1}}}),
    ("POST", "/v1/pricing/quote", {"currency": "USD", "price": PLAN["prices"][2], "quantity": "5"}),
    ("POST", "/v1/pricing/invoice", {"currency": "USD", "lines": [{"amount": "5"}], "discounts": [{"percent": "1"}]}),
    (
        "POST",
        "/v1/pricing/simulate",
        {
            "plan": {"currency": "USD", "prices": PLAN["prices"][:1]},
            "from": "2026-01-01T00:00:00Z",
            "to": "2026-03-01T00:00:00Z",
            "timezone": "Europe/Berlin",
            "customers": ["acme"],
        },
    ),
    ("POST", "/v1/events/void", {"id": "none", "source": "api"}),
    ("POST", "/v1/events/replay", {"code": "x", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}),
    ("POST", "/v1/tenants", {"name": "x"}),
    ("POST", "/v1/api_keys", {"name": "x", "role": "read"}),
    ("POST", "/v1/invoices/preview", {"subscription": "{subscription}"}),
]

HOSTILE = [
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "1e-400",
    "1e99999999999999999999",
    "-1.5e-99999999999999999999",
    "-0.0",
    "123456789012345678901234567890123456789012",
    '""',
    '" "',
    '"\\u0000"',
    '"\\u202e\\uffff\U0001f4a5"',
    '"NaN"',
    '"Infinity"',
    '"1e999999999"',
    '"-1"',
    '"99999999999999999999999999999999999999"',
    '"0001-01-01T00:00:00Z"',
    '"2026-01-01T00:00:60Z"',
    "[]",
    "[[]]",
    "{}",
    '{"a": {"b": []}}',
    '"' + "x" * 100_000 + '"',
    '"\'; DROP TABLE customers; --"',
    '"%s %(x)s {} \\\\ $1"',
    '"../../etc/passwd"',
]


def mutations(body: Any, hostile: str) -> list[str]:
    """JSON texts of the body, in each of which one value has been replaced."""
    marker = "@hostile@"

    def replaced(value: Any) -> list[Any]:
        found: list[Any] = [marker]
        if isinstance(value, dict):
            found += [{**value, key: item} for key in value for item in replaced(value[key])]
            found.append({**value, marker: 1})
        if isinstance(value, list):
            found += [[*value[:i], item, *value[i + 1 :]] for i in range(len(value)) for item in replaced(value[i])]
        return found

    as_key = hostile if hostile.startswith('"') else json.dumps(hostile)
    return [
        json.dumps(each).replace(f'"{marker}":', f"{as_key}:").replace(f'"{marker}"', hostile)
        for each in replaced(body)
    ]


def is_answered(response: httpx2.Response) -> bool:
    """No flow stores events here, so a void can't know whether its event is still to come, and says that."""
    return response.status_code < 500 or response.json()["code"] == "usage.behind"


@pytest.fixture(scope="module")
def example(operator: Api) -> tuple[Api, str]:
    """A tenant with the worked example in it, and the id of its subscription."""
    tenant = operator.new_tenant()
    return tenant, make_example(tenant)


BODIES = pytest.mark.parametrize(("method", "path", "body"), GOOD, ids=[f"{method} {path}" for method, path, _ in GOOD])


@BODIES
def test_no_value_in_no_field_is_a_500(
    operator: Api, example: tuple[Api, str], method: str, path: str, body: Any
) -> None:
    send_hostile(operator, example, method, path, body, share=SHARE)


@pytest.mark.long
@BODIES
def test_not_one_value_in_not_one_field_is_a_500(
    operator: Api, example: tuple[Api, str], method: str, path: str, body: Any
) -> None:
    send_hostile(operator, example, method, path, body, share=1)


def send_hostile(operator: Api, example: tuple[Api, str], method: str, path: str, body: Any, *, share: int) -> None:
    tenant, subscription = example
    client = operator.http if path == "/v1/tenants" else tenant.http
    path = path.replace("{subscription}", subscription).replace("{plan}", "pro")
    good = json.dumps(body).replace("{subscription}", subscription)
    for number, hostile in enumerate(HOSTILE):
        for content in mutations(json.loads(good), hostile)[number % share :: share]:
            response = client.request(method, path, content=content.encode())
            assert is_answered(response), (content[:500], response.text)
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["code"].count(".") == 1


POSTS = [
    path
    for path, operations in sorted(DESCRIPTION["paths"].items())
    if "post" in operations and path.startswith("/v1/") and path != "/v1/events"
]


@pytest.mark.parametrize("path", POSTS)
def test_every_body_refuses_a_field_it_does_not_know(operator: Api, example: tuple[Api, str], path: str) -> None:
    tenant, subscription = example
    client = operator.http if path == "/v1/tenants" else tenant.http
    body: dict[str, Any] = next((body for _, known, body in GOOD if known == path), {})  # what lacks is named after it
    url = path.replace("{plan}", "pro").replace("{subscription}", subscription)
    response = client.post(url, json={**body, "no_such_field": 1})
    assert (response.status_code, response.json()["code"]) == (422, "request.unknown_field"), response.text
    assert "/no_such_field" in {error["pointer"] for error in response.json()["errors"]}


@pytest.mark.parametrize(
    "query",
    [
        "limit=1e3",
        "limit=%F0%9F%92%A5",
        "limit=1&limit=2",
        "starting_after=%ff",
        "starting_after=cus_' OR 1=1",
        "%00=1",
    ],
)
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/meters", "/v1/plans", "/v1/subscriptions", "/v1/api_keys"])
def test_no_parameter_is_a_500(api: Api, path: str, query: str) -> None:
    assert api.http.get(f"{path}?{query}").status_code < 500


DESCRIBED = schemathesis.openapi.from_dict(DESCRIPTION)
OPERATIONS = [
    (method.upper(), path)
    for path, operations in sorted(DESCRIPTION["paths"].items())
    for method in operations
    if (method, path) not in {("post", "/v1/events"), ("get", "/readyz"), ("get", "/metrics")}
]


EVERY_OPERATION = pytest.mark.parametrize(
    ("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS]
)


@EVERY_OPERATION
def test_no_request_that_the_description_allows_is_a_500(api: Api, method: str, path: str) -> None:
    send_described(api, method, path, examples=EXAMPLES_AN_OPERATION)


@pytest.mark.long
@EVERY_OPERATION
def test_not_one_of_many_requests_that_the_description_allows_is_a_500(api: Api, method: str, path: str) -> None:
    send_described(api, method, path, examples=MANY_EXAMPLES_AN_OPERATION)


def send_described(api: Api, method: str, path: str, *, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        derandomize=True,
        database=None,
    )
    @given(DESCRIBED[path][method].as_strategy())
    def send(case: Any) -> None:
        drawn = case.as_transport_kwargs(base_url="http://testserver")
        headers = {**drawn["headers"], "authorization": api.http.headers["authorization"]}
        content = drawn.get("data") or (json.dumps(drawn["json"]).encode() if "json" in drawn else None)
        response = api.http.request(
            drawn["method"], drawn["url"], params=drawn.get("params") or None, content=content, headers=headers
        )
        assert is_answered(response), response.text
        if response.status_code >= 400:
            form = "json" if path.startswith("/ofrep/") else "problem+json"
            assert response.headers["content-type"] == f"application/{form}"

    send()
