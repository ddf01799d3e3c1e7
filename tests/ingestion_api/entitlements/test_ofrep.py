from typing import Any

import pytest
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, TargetingKeyMissingError

from tests.ingestion_api.entitlements.test_checks import acme, count
from tests.support.api import Api
from tests.support.services import Services

__all__ = ["acme"]

FLAGS = "/ofrep/v1/evaluate/flags"


def evaluate(api: Api, key: str, customer: str = "acme") -> Any:
    return api.post(f"{FLAGS}/{key}", {"context": {"targetingKey": customer, "plan": "x"}}, status=200)


def test_every_type_of_feature_is_a_flag(acme: Api) -> None:
    assert evaluate(acme, "sso") == {
        "key": "sso",
        "value": True,
        "variant": "on",
        "reason": "TARGETING_MATCH",
        "metadata": {"type": "boolean", "reason": "unlimited"},
    }
    assert (evaluate(acme, "beta")["value"], evaluate(acme, "beta")["metadata"]["reason"]) == (False, "feature_off")
    region = evaluate(acme, "region")
    assert (region["value"], region["variant"]) == (["eu", 1.5], "value")
    extra = evaluate(acme, "extra")
    assert (extra["value"], extra["variant"], extra["reason"]) == (False, "off", "DEFAULT")


def test_a_metered_flag_is_off_once_its_limit_is_used(acme: Api) -> None:
    assert evaluate(acme, "tokens")["value"] is True
    with acme.at("2026-03-10T12:00:00Z"):
        count(acme, "tokens", "2026-03-01T05:00:00Z", "1000")
        used_up = evaluate(acme, "tokens")
    assert (used_up["value"], used_up["metadata"]["reason"]) == (False, "limit_exceeded")


def test_a_static_flag_of_the_unentitled_leaves_the_default_to_the_caller(acme: Api) -> None:
    acme.post("/v1/customers", {"external_id": "globex"})
    for customer in ("globex", "nobody-here"):
        region = evaluate(acme, "region", customer)
        assert "value" not in region
        assert (region["reason"], region["metadata"]["reason"]) == ("DEFAULT", "no_entitlement")
        assert evaluate(acme, "sso", customer)["value"] is False


def test_all_flags_carry_an_etag_that_answers_304_until_one_changes(acme: Api) -> None:
    body = {"context": {"targetingKey": "acme"}}
    first = acme.http.post(FLAGS, json=body)
    keys = [flag["key"] for flag in first.json()["flags"]]
    assert keys == ["beta", "calls", "extra", "region", "sso", "tokens"]
    etag = first.headers["etag"]
    for sent in (etag, f'"other", W/{etag}', "*"):
        again = acme.http.post(FLAGS, json=body, headers={"if-none-match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    acme.post("/v1/features", {"key": "another", "type": "boolean"})
    changed = acme.http.post(FLAGS, json=body, headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "PARSE_ERROR"),
        (b"", 400, "TARGETING_KEY_MISSING"),
        (b"{}", 400, "TARGETING_KEY_MISSING"),
        (b'{"context":{}}', 400, "TARGETING_KEY_MISSING"),
        (b'{"context":{"targetingKey":null}}', 400, "INVALID_CONTEXT"),
        (b'{"context":{"targetingKey":7}}', 400, "INVALID_CONTEXT"),
        (b'{"context":"acme"}', 400, "INVALID_CONTEXT"),
        (b'{"context":{"targetingKey":"acme"}}', 404, "FLAG_NOT_FOUND"),
        (b'{"context":{"targetingKey":"a\\u0000b"}}', 400, "INVALID_CONTEXT"),
    ],
)
def test_errors_have_ofreps_own_form(api: Api, body: bytes, status: int, code: str) -> None:
    response = api.http.post(f"{FLAGS}/none", content=body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    failure = response.json()
    assert (failure["key"], failure["errorCode"]) == ("none", code)
    assert failure["errorDetails"]
    every = api.http.post(FLAGS, content=body)
    assert (every.status_code, every.json().get("errorCode")) == ((400, code) if status == 400 else (200, None))


def test_a_flag_needs_a_key_that_may_check(api: Api) -> None:
    body = {"context": {"targetingKey": "acme"}}
    nobody = api.with_key(None).post(FLAGS, json=body)
    assert (nobody.status_code, nobody.json()["errorCode"]) == (401, "GENERAL")
    secret = api.post("/v1/api_keys", {"name": "sender", "role": "ingest"})["secret"]
    assert api.with_key(secret).post(FLAGS, json=body).status_code == 403


def test_another_tenants_flags_are_not_found(acme: Api, operator: Api) -> None:
    assert evaluate(acme, "sso")["value"] is True
    other = operator.new_tenant()
    other.post("/ofrep/v1/evaluate/flags/sso", {"context": {"targetingKey": "acme"}}, status=404)
    assert other.post(FLAGS, {"context": {"targetingKey": "acme"}}, status=200) == {"flags": []}


def test_the_official_provider_understands_us(services: Services) -> None:
    key = services.new_tenant_key()
    with services.client(key) as admin:

        def post(path: str, body: dict[str, Any]) -> Any:
            answer = admin.post(path, json=body)
            assert answer.status_code == 201, answer.text
            return answer.json()

        post("/v1/features", {"key": "sso", "type": "boolean"})
        post("/v1/features", {"key": "region", "type": "static"})
        granted = [{"feature": "sso"}, {"feature": "region", "value": ["eu", 1.5]}]
        post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [], "entitlements": granted})
        post("/v1/customers", {"external_id": "acme"})
        post("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
        secret = post("/v1/api_keys", {"name": "flags", "role": "check"})["secret"]
    provider = OFREPProvider(services.url, headers_factory=lambda: {"authorization": f"Bearer {secret}"})
    somebody, nobody = EvaluationContext(targeting_key="acme"), EvaluationContext(targeting_key="nobody")
    try:
        assert provider.resolve_boolean_details("sso", default_value=False, evaluation_context=somebody).value is True
        assert provider.resolve_boolean_details("sso", default_value=True, evaluation_context=nobody).value is False
        assert provider.resolve_object_details("region", [], somebody).value == ["eu", 1.5]
        assert provider.resolve_object_details("region", ["us"], nobody).value == ["us"]
        with pytest.raises(FlagNotFoundError, match="no feature 'none'"):
            provider.resolve_boolean_details("none", default_value=False, evaluation_context=somebody)
        with pytest.raises(TargetingKeyMissingError):
            provider.resolve_boolean_details("sso", default_value=False)
    finally:
        provider.session.close()
