"""What a plan entitles to, agreed otherwise for one subscription; and pauses that keep what is entitled to."""

from typing import Any

import pytest

from tests.ingestion_api.entitlements.test_checks import check, count
from tests.ingestion_api.entitlements.test_lifecycle import START, TODAY, act, entries, shop, subscribe
from tests.support.api import Api

__all__ = ["shop"]


def limit(api: Api, at: str = TODAY) -> Any:
    return check(api, "tokens", at=at)["limit"]


def test_an_override_holds_for_its_subscription_alone_and_usage_stays_counted(shop: Api) -> None:
    overrides = {"tokens": {"limit": "250.5", "enforcement": "soft"}, "region": {"value": "mars"}}
    subscription_id = subscribe(shop, entitlement_overrides=overrides)
    count(shop, "tokens", START, "120")
    found = check(shop, "tokens", at=TODAY)
    assert (found["limit"], found["used"], found["enforcement"]) == ("250.5", "120", "soft")
    assert check(shop, "region", at=TODAY)["value"] == "mars"
    shown = shop.get(f"/v1/subscriptions/{subscription_id}")["entitlement_overrides"]
    assert shown["tokens"] == {"limit": "250.5", "reset": "billing_period", "enforcement": "soft"}
    assert shown["region"] == {"value": "mars"}
    subscribe(shop)
    assert limit(shop) == "350.5"


def test_a_change_overrides_from_its_instant_on_and_null_takes_it_away(shop: Api) -> None:
    subscription_id = subscribe(shop)
    act(shop, subscription_id, "change", entitlement_overrides={"tokens": {"limit": None}}, at="2026-01-20T00:00:00Z")
    assert limit(shop, "2026-01-19T23:59:59Z") == "100"
    assert check(shop, "tokens", at="2026-01-20T00:00:00Z")["reason"] == "unlimited"
    act(shop, subscription_id, "change", on="2026-01-21T00:00:00Z", entitlement_overrides={"tokens": {"limit": "7"}})
    assert limit(shop, "2026-01-21T00:00:00Z") == "7"
    act(shop, subscription_id, "change", on="2026-01-22T00:00:00Z", entitlement_overrides={"tokens": None})
    assert limit(shop, "2026-01-22T00:00:00Z") == "100"
    assert len(entries(shop, subscription_id)) == 4


def test_an_override_is_kept_while_the_plan_says_the_same_and_goes_with_another_limit(shop: Api) -> None:
    subscription_id = subscribe(shop, entitlement_overrides={"tokens": {"limit": "250"}})
    act(shop, subscription_id, "change", addons=[{"addon": "pack"}])
    assert limit(shop) == "300"
    act(shop, subscription_id, "change", plan="big")
    assert limit(shop) == "1050"
    assert shop.get(f"/v1/subscriptions/{subscription_id}")["phases"][0]["entitlement_overrides"] != {}


def test_a_preview_shows_the_override_and_changes_nothing(shop: Api) -> None:
    subscription_id = subscribe(shop)
    overrides = {"tokens": {"limit": "5"}}
    shown = act(shop, subscription_id, "change", entitlement_overrides=overrides, preview=True)
    assert (shown["preview"], shown["entitlement_overrides"]["tokens"]["limit"]) == (True, "5")
    assert limit(shop) == "100"
    assert shop.get(f"/v1/subscriptions/{subscription_id}")["entitlement_overrides"] == {}


def test_an_override_and_what_is_carried_over_live_together(shop: Api) -> None:
    subscribe(shop, entitlement_overrides={"tokens": {"rollover_max": "30"}})
    count(shop, "tokens", START, "90")
    count(shop, "tokens", "2026-02-01T05:00:00Z", "0")
    found = check(shop, "tokens", at="2026-02-10T00:00:00Z")
    assert (found["limit"], found["rolled_over"]) == ("110", "10")


@pytest.mark.parametrize(
    ("overrides", "code", "pointer"),
    [
        ({"sso": {"value": False}}, "subscription.unknown_entitlement", "/sso"),
        ({"none/such": {"limit": "1"}}, "subscription.unknown_entitlement", "/none~1such"),
        ({"tokens": {"limit": "-1"}}, "subscription.invalid_entitlement", "/tokens/limit"),
        ({"tokens": {"limit": "1e400"}}, "subscription.invalid_entitlement", "/tokens/limit"),
        ({"tokens": {"value": 1}}, "subscription.invalid_entitlement", "/tokens/value"),
        ({"tokens": {"feature": "region"}}, "request.unknown_field", "/tokens/feature"),
        ({"tokens": {"colour": "1"}}, "request.unknown_field", "/tokens/colour"),
        (
            {"tokens": {"reset": "never", "rollover_max": "1"}},
            "subscription.invalid_entitlement",
            "/tokens/rollover_max",
        ),
    ],
)
def test_what_can_not_be_agreed_is_refused_with_its_place(shop: Api, overrides: Any, code: str, pointer: str) -> None:
    body = {"customer": "acme", "plan": "small", "entitlement_overrides": overrides}
    problem = shop.post("/v1/subscriptions", body, status=422)
    assert (problem["errors"][0]["code"], problem["errors"][0]["pointer"]) == (code, f"/entitlement_overrides{pointer}")


def test_one_feature_is_not_overridden_by_two_names(shop: Api) -> None:
    feature_id = shop.get("/v1/features/tokens")["id"]
    overrides = {"tokens": {"limit": "1"}, feature_id: {"limit": "2"}}
    body = {"customer": "acme", "plan": "small", "entitlement_overrides": overrides}
    assert shop.post("/v1/subscriptions", body, status=422)["code"] == "subscription.duplicate_entitlement"
    subscribe(shop, entitlement_overrides={feature_id: {"limit": "2"}})
    assert limit(shop) == "2"


def test_a_pause_may_keep_what_is_entitled_to(shop: Api) -> None:
    subscription_id = subscribe(shop)
    count(shop, "tokens", START, "40")
    shown = act(shop, subscription_id, "pause", entitlements="keep")
    found = check(shop, "tokens", at="2026-01-15T00:00:00Z")
    assert (shown["status"], found["reason"], found["used"]) == ("paused", "within_limit", "40")
    assert [(each["paused"], each["entitled"]) for each in shown["phases"]] == [(False, True), (True, True)]
    act(shop, subscription_id, "resume", on="2026-01-16T00:00:00Z")
    act(shop, subscription_id, "pause", on="2026-01-17T00:00:00Z")
    assert check(shop, "tokens", at="2026-01-18T00:00:00Z")["reason"] == "subscription_inactive"
