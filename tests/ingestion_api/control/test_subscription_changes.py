"""What changes of a subscription take and refuse, and what they make of its terms."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.ingestion_api.control.test_previews import BASE, SEATS
from tests.ingestion_api.test_worked_example import FEATURE, METER
from tests.support.api import Api

START, TODAY, LATER = "2026-01-01T00:00:00Z", "2026-01-10T12:00:00Z", "2026-01-20T00:00:00Z"
TOKENS = {"key": "tokens", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "0.01"}


@pytest.fixture
def shop(api: Api) -> Api:
    """Plans, add-ons and a subscription `sub` of customer acme since the first of January."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    for key, prices, currency in (
        ("small", [BASE, SEATS, TOKENS], "USD"),
        ("big", [{**BASE, "amount": "99"}, SEATS, {**TOKENS, "unit_amount": "0.005"}], "USD"),
        ("bare", [BASE], "USD"),
        ("euro", [BASE], "EUR"),
    ):
        api.post("/v1/plans", {"key": key, "currency": currency, "prices": prices})
    api.post("/v1/addons", {"key": "support", "currency": "USD", "prices": [{**BASE, "key": "support"}]})
    api.post("/v1/addons", {"key": "clash", "currency": "USD", "prices": [BASE]})
    api.post("/v1/coupons", {"key": "half", "percent": "50", "duration": "once"})
    api.post("/v1/customers", {"external_id": "acme"})
    return api


def subscribe(api: Api, **body: Any) -> str:
    with api.at(START):
        made = api.post(
            "/v1/subscriptions", {"customer": "acme", "plan": "small", "quantities": {"seats": "3"}, **body}
        )
    return made["id"]


def act(api: Api, subscription_id: str, action: str, *, on: str = TODAY, status: int = 200, **body: Any) -> Any:
    with api.at(on):
        return api.post(f"/v1/subscriptions/{subscription_id}/{action}", body, status=status)


def bill_until(api: Api, subscription_id: str, instant: str) -> None:
    """As the sweep would leave it."""
    with api.database.transaction() as connection:
        connection.execute("UPDATE subscriptions SET billed_until = %s WHERE id = %s", (instant, subscription_id))


def test_a_change_shows_the_terms_before_now_and_to_come(shop: Api) -> None:
    subscription_id = subscribe(shop)
    act(shop, subscription_id, "change", on="2026-01-05T00:00:00Z", quantities={"seats": "4"})
    act(shop, subscription_id, "change", plan="big", at=LATER, commitment={"amount": "100"})
    with shop.at(TODAY):
        found = shop.get(f"/v1/subscriptions/{subscription_id}")
    assert (found["plan"], found["quantities"], found["commitment"]) == ("small", {"seats": "4"}, None)
    assert [
        (each["state"], each["plan"], each["quantities"]["seats"], each["starts_at"], each["ends_at"])
        for each in found["phases"]
    ] == [
        ("past", "small", "3", START, "2026-01-05T00:00:00Z"),
        ("current", "small", "4", "2026-01-05T00:00:00Z", LATER),
        ("scheduled", "big", "4", LATER, None),
    ]
    with shop.at(LATER):
        after = shop.get(f"/v1/subscriptions/{subscription_id}")
        assert [each["id"] for each in shop.get("/v1/subscriptions", plan="big")["data"]] == [subscription_id]
        assert shop.get("/v1/subscriptions", plan="small")["data"] == []
    assert (after["plan"], after["commitment"]["amount"]) == ("big", "100")


def test_another_plan_keeps_quantities_that_it_knows_and_overrides_of_the_same_price(shop: Api) -> None:
    subscription_id = subscribe(
        shop, price_overrides={"seats": {"unit_amount": "8"}, "tokens": {"unit_amount": "0.002"}}
    )
    big = act(shop, subscription_id, "change", plan="big")
    assert big["quantities"] == {"seats": "3"}
    assert {key: each["unit_amount"] for key, each in big["price_overrides"].items()} == {"seats": "8"}
    bare = act(shop, subscription_id, "change", plan="bare")
    assert (bare["quantities"], bare["price_overrides"]) == ({}, {})


def test_an_override_is_taken_away_by_null_and_others_stay(shop: Api) -> None:
    overrides = {"seats": {"unit_amount": "8"}, "tokens": {"unit_amount": "0.002"}}
    subscription_id = subscribe(shop, price_overrides=overrides)
    found = act(shop, subscription_id, "change", price_overrides={"seats": None})
    assert list(found["price_overrides"]) == ["tokens"]


def test_a_subscription_stays_on_the_version_of_an_add_on_until_told(shop: Api) -> None:
    subscription_id = subscribe(shop, addons=["support"])
    shop.post("/v1/addons/support/versions", {"prices": [{**BASE, "key": "support", "amount": "77"}]})
    kept = act(shop, subscription_id, "change", addons=[{"addon": "support", "quantity": "2"}])
    assert kept["addons"] == [{"addon": "support", "version": 1, "quantity": "2"}]
    moved = act(shop, subscription_id, "change", addons=[{"addon": "support", "version": 2}])
    assert moved["addons"] == [{"addon": "support", "version": 2, "quantity": "1"}]
    assert act(shop, subscription_id, "change", addons=[])["addons"] == []


def test_a_change_replaces_what_is_scheduled_for_later(shop: Api) -> None:
    subscription_id = subscribe(shop)
    act(shop, subscription_id, "change", plan="big", at="period_end")
    found = act(shop, subscription_id, "change", quantities={"seats": "9"}, at=LATER)
    assert [each["starts_at"] for each in found["phases"]] == [START, LATER]
    assert found["phases"][1]["plan"] == "small"


def test_the_later_of_two_changes_at_one_instant_holds(shop: Api) -> None:
    subscription_id = subscribe(shop)
    act(shop, subscription_id, "change", plan="big")
    found = act(shop, subscription_id, "change", quantities={"seats": "9"})
    assert (found["plan"], found["quantities"]) == ("big", {"seats": "9"})
    assert [each["starts_at"] for each in found["phases"]] == [START, TODAY]


def test_a_bill_made_while_a_change_for_now_waited_is_no_conflict(shop: Api) -> None:
    subscription_id = subscribe(shop)
    bill_until(shop, subscription_id, LATER)
    before = "2026-01-19T23:59:59.900000Z"
    changes: list[tuple[str, dict[str, Any]]] = [("change", {"plan": "big"}), ("pause", {}), ("resume", {})]
    for action, body in changes:
        found = act(shop, subscription_id, action, on=before, **body)
        assert found["phases"][-1]["starts_at"] == LATER, action
        assert found["phases"][-1]["state"] == "current", action
    assert act(shop, subscription_id, "cancel", on=before, at="now")["cancel_at"] == LATER


BAD: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("change", {}, 422, "subscription.nothing_to_change", None),
    ("change", {"plan": "none"}, 404, "plan.not_found", None),
    ("change", {"plan": "big", "plan_version": 9}, 404, "plan.not_found", None),
    ("change", {"plan": "euro"}, 422, "subscription.currency_mismatch", "/plan"),
    ("change", {"quantities": {"none": "1"}}, 422, "subscription.unknown_price", "/quantities/none"),
    ("change", {"plan": "bare", "quantities": {"seats": "1"}}, 422, "subscription.unknown_price", "/quantities/seats"),
    ("change", {"price_overrides": {"none": {}}}, 422, "subscription.unknown_price", "/price_overrides/none"),
    ("change", {"addons": ["none"]}, 422, "addon.not_found", "/addons/0/addon"),
    ("change", {"addons": ["clash"]}, 422, "subscription.duplicate_price", "/addons/0/addon"),
    ("change", {"commitment": {"amount": "-1"}}, 422, "pricing.invalid_decimal", "/commitment/amount"),
    ("change", {"plan": "big", "at": "2025-12-31T00:00:00Z"}, 422, "subscription.before_start", "/at"),
    ("change", {"plan": "big", "at": "2026-01-02T00:00:00Z"}, 409, "subscription.already_billed", "/at"),
    ("change", {"plan": "big", "at": "tomorrow"}, 422, "request.invalid_field", "/at"),
    ("change", {"plan": "big", "proration": "half"}, 422, "request.invalid_field", "/proration"),
    ("change", {"discounts": [{"coupon": "none"}]}, 422, "coupon.not_found", "/discounts/0/coupon"),
    ("change", {"discounts": [{"percent": "101"}]}, 422, "pricing.invalid_discount", "/discounts/0/percent"),
    ("change", {"discounts": [{"coupon": "half"}], "at": LATER}, 422, "subscription.discounts_now", "/discounts"),
    ("pause", {"at": "2026-01-02T00:00:00Z"}, 409, "subscription.already_billed", "/at"),
    ("pause", {"resume_at": TODAY}, 422, "subscription.invalid_resume_at", "/resume_at"),
    ("resume", {}, 409, "subscription.not_paused", "/at"),
    ("activate", {}, 409, "subscription.not_draft", None),
]


@pytest.mark.parametrize(("action", "body", "status", "code", "pointer"), BAD)
def test_a_bad_change_is_refused_previewed_or_not_and_changes_nothing(
    shop: Api, action: str, body: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    subscription_id = subscribe(shop)
    bill_until(shop, subscription_id, "2026-01-05T00:00:00Z")
    with shop.at(TODAY):
        before = shop.get(f"/v1/subscriptions/{subscription_id}")
    for preview in (True, False):
        problem = act(shop, subscription_id, action, status=status, preview=preview, **body)
        assert problem["code"] == code
        assert pointer is None or problem["errors"][0]["pointer"] == pointer
    with shop.at(TODAY):
        assert shop.get(f"/v1/subscriptions/{subscription_id}") == before


def test_what_is_over_or_paused_is_not_changed(shop: Api) -> None:
    subscription_id = subscribe(shop, end_at="2026-06-01T00:00:00Z")
    late = act(shop, subscription_id, "change", status=409, plan="big", at="2026-06-01T00:00:00Z")
    assert late["code"] == "subscription.after_end"
    assert act(shop, subscription_id, "pause")["status"] == "paused"
    assert act(shop, subscription_id, "pause", status=409)["code"] == "subscription.already_paused"
    assert act(shop, subscription_id, "change", status=409, plan="big")["code"] == "subscription.paused"
    assert act(shop, subscription_id, "resume", on=LATER)["status"] == "active"
    act(shop, subscription_id, "cancel", on=LATER, at="now")
    for action in ("change", "pause", "resume"):
        body = {"plan": "big"} if action == "change" else {}
        assert act(shop, subscription_id, action, on=LATER, status=409, **body)["code"] == "subscription.ended"


def test_metadata_is_merged_by_patch(shop: Api) -> None:
    subscription_id = subscribe(shop, metadata={"a": "1", "b": "2"})
    path = f"/v1/subscriptions/{subscription_id}"
    changed = shop.http.patch(path, json={"metadata": {"a": None, "c": "3"}}).json()
    assert changed["metadata"] == {"b": "2", "c": "3"}
    assert shop.get(path)["metadata"] == changed["metadata"]
    assert shop.http.patch("/v1/subscriptions/sub_none", json={}).status_code == 404


def test_discounts_are_replaced_by_patch_and_kept_ones_keep_their_count(shop: Api) -> None:
    subscription_id = subscribe(shop, discounts=[{"coupon": "half"}, {"percent": "5"}])
    with shop.database.transaction() as connection:
        connection.execute(
            "UPDATE subscriptions SET discounts = jsonb_set(discounts, '{0,applied}', '1') WHERE id = %s",
            (subscription_id,),
        )
    path = f"/v1/subscriptions/{subscription_id}"
    changed = shop.http.patch(path, json={"discounts": [{"amount": "3"}, {"coupon": "half"}]}).json()["discounts"]
    assert [(each["coupon"], each["amount"], each["applied"]) for each in changed] == [
        (None, "3", 0),
        ("half", None, 1),
    ]
    assert shop.get("/v1/coupons/half")["redemptions"] == 1
    assert shop.http.patch(path, json={"discounts": []}).json()["discounts"] == []
    again = shop.http.patch(path, json={"discounts": [{"coupon": "half"}]})
    assert (again.status_code, again.json()["code"]) == (409, "coupon.already_redeemed")


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"expires_at": "2026-01-10T12:00:00Z"}, "coupon.expired"),
        ({"archived": True}, "coupon.archived"),
        ({"max_redemptions": 1}, "coupon.used_up"),
        ({"percent": None, "amount": "1", "currency": "EUR"}, "coupon.currency_mismatch"),
    ],
)
def test_a_coupon_that_gives_nothing_any_more_is_refused(shop: Api, terms: dict[str, Any], code: str) -> None:
    archived = terms.pop("archived", False)
    with shop.at(START):
        shop.post("/v1/coupons", {"key": "c", "percent": "10", "duration": "forever", **terms})
    if archived:
        shop.http.patch("/v1/coupons/c", json={"archived": True})
    if code == "coupon.used_up":
        subscribe(shop, discounts=[{"coupon": "c"}])
    subscription_id = subscribe(shop)
    status = 422 if code == "coupon.currency_mismatch" else 409
    problem = act(shop, subscription_id, "change", status=status, discounts=[{"coupon": "c"}])
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, "/discounts/0/coupon")


def test_a_coupon_is_never_redeemed_more_often_than_it_may_be(shop: Api) -> None:
    shop.post("/v1/coupons", {"key": "few", "percent": "10", "duration": "once", "max_redemptions": 3})
    body = {"plan": "small", "discounts": [{"coupon": "few"}]}
    names = [f"c{number}" for number in range(12)]
    for name in names:
        shop.post("/v1/customers", {"external_id": name})

    def redeem(name: str) -> int:
        return shop.http.post("/v1/subscriptions", json={**body, "customer": name}).status_code

    with ThreadPoolExecutor(max_workers=6) as pool:
        statuses = list(pool.map(redeem, names))
    assert sorted(statuses) == [201] * 3 + [409] * 9
    assert shop.get("/v1/coupons/few")["redemptions"] == 3
    assert len(shop.get("/v1/subscriptions", limit=50)["data"]) == 3


def test_a_preview_redeems_nothing(shop: Api) -> None:
    subscription_id = subscribe(shop)
    shown = act(shop, subscription_id, "change", discounts=[{"coupon": "half"}], preview=True)
    assert shown["discounts"][0]["coupon"] == "half"
    assert shop.get("/v1/coupons/half")["redemptions"] == 0


def test_a_draft_may_be_changed_and_withdrawn_before_it_begins(shop: Api) -> None:
    subscription_id = subscribe(shop, draft=True, trial_days=7)
    changed = act(shop, subscription_id, "change", plan="big")
    assert (changed["status"], changed["plan"], changed["next_bill_at"]) == ("draft", "big", None)
    begun = act(shop, subscription_id, "activate")
    assert (begun["status"], begun["start_at"], begun["plan"]) == ("trialing", TODAY, "big")
    assert (begun["trial_end_at"], begun["next_bill_at"]) == ("2026-01-17T12:00:00Z", "2026-01-17T12:00:00Z")
    assert act(shop, subscription_id, "activate", status=409)["code"] == "subscription.not_draft"
    other = subscribe(shop, draft=True)
    assert act(shop, other, "cancel", at="now")["status"] == "canceled"
    assert act(shop, other, "activate", status=409)["code"] == "subscription.ended"
