from typing import Any

import msgspec
import pytest

from ingestion_api.control.subscription_terms import MAX_MISSED_PERIODS
from schemas.catalogue import EntitlementEntry
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER, PLAN, SUBSCRIPTION
from tests.support.api import Api

NOW = "2026-03-10T12:00:00Z"


@pytest.fixture
def catalog(api: Api) -> Api:
    """The example without its subscription."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    api.post("/v1/plans", PLAN)
    api.post("/v1/customers", CUSTOMER)
    return api


def subscribe(api: Api, *, status: int = 201, **change: Any) -> Any:
    with api.at(NOW):
        return api.post("/v1/subscriptions", {"customer": "acme", "plan": "pro", **change}, status=status)


def entries_of(api: Api, subscription_id: str) -> list[EntitlementEntry]:
    """What flows know of a subscription's entitlements."""
    with api.database.transaction() as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (key) body FROM catalogue_changes JOIN entitlements ON entitlements.no::text = key"
            " WHERE kind = 'entitlement' AND subscription_id = %s ORDER BY key, version DESC",
            (subscription_id,),
        ).fetchall()
    return [msgspec.convert(row["body"], EntitlementEntry) for row in rows]


def test_a_subscription_starts_now_unless_told_otherwise(catalog: Api) -> None:
    subscription = subscribe(catalog)
    assert subscription["status"] == "active"
    assert subscription["start_at"] == subscription["billing_anchor"] == subscription["next_bill_at"] == NOW
    assert subscription["current_period"] == {"start": NOW, "end": "2026-04-10T12:00:00Z"}
    assert subscription["timezone"] == "America/New_York"
    assert subscription["plan_version"] == 1


def test_a_start_in_the_past_is_due_at_once(catalog: Api) -> None:
    subscription = subscribe(catalog, start_at=SUBSCRIPTION["start_at"])
    assert subscription["status"] == "active"
    assert subscription["next_bill_at"] == "2026-01-01T05:00:00Z"
    assert subscription["current_period"] == {"start": "2026-03-01T05:00:00Z", "end": "2026-04-01T04:00:00Z"}


def test_a_start_to_come_is_a_draft_until_then(catalog: Api) -> None:
    subscription = subscribe(catalog, start_at="2026-04-01T00:00:00Z")
    path = f"/v1/subscriptions/{subscription['id']}"
    assert (subscription["status"], subscription["current_period"]) == ("draft", None)
    with catalog.at("2026-03-31T23:59:59Z"):
        assert catalog.get(path)["status"] == "draft"
    with catalog.at("2026-04-01T00:00:00Z"):
        assert catalog.get(path)["status"] == "active"
        assert [each["id"] for each in catalog.get("/v1/subscriptions?status=active")["data"]] == [subscription["id"]]
        assert catalog.get("/v1/subscriptions?status=draft")["data"] == []


def test_a_subscription_ends_at_its_end(catalog: Api) -> None:
    subscription = subscribe(catalog, end_at="2026-05-01T00:00:00Z")
    with catalog.at("2026-05-01T00:00:00Z"):
        assert catalog.get(f"/v1/subscriptions/{subscription['id']}")["status"] == "ended"
    [entry] = entries_of(catalog, subscription["id"])
    assert entry.ends_at is not None
    assert entry.ends_at.isoformat() == "2026-05-01T00:00:00+00:00"


def test_a_calendar_alignment_cuts_the_first_period_short(catalog: Api) -> None:
    subscription = subscribe(catalog, alignment="calendar")
    assert subscription["current_period"] == {"start": NOW, "end": "2026-04-01T04:00:00Z"}


def test_an_anchor_of_its_own_cuts_the_first_period_short(catalog: Api) -> None:
    subscription = subscribe(catalog, billing_anchor="2026-03-15T04:00:00Z")
    assert subscription["current_period"] == {"start": NOW, "end": "2026-03-15T04:00:00Z"}


def test_flows_learn_how_to_count_in_the_same_transaction(catalog: Api) -> None:
    subscription = subscribe(catalog, start_at=SUBSCRIPTION["start_at"])
    [entry] = entries_of(catalog, subscription["id"])
    assert (entry.reset, entry.billing_period, entry.billing_period_count) == ("billing_period", "month", 1)
    assert (entry.timezone, entry.alignment, entry.ends_at) == ("America/New_York", "anniversary", None)
    assert entry.starts_at == entry.billing_anchor


def test_a_limit_resets_with_the_price_of_its_own_meter(catalog: Api) -> None:
    prices = [
        {"key": "fee", "type": "fixed", "model": "flat", "amount": "1", "billing_period": "day"},
        {
            "key": "use",
            "type": "usage",
            "meter": "tokens",
            "model": "per_unit",
            "unit_amount": "1",
            "billing_period": "quarter",
        },
    ]
    entitlements = [{"feature": "tokens", "limit": "5"}]
    body = {"key": "other", "currency": "USD", "prices": prices, "entitlements": entitlements}
    catalog.post("/v1/plans", body)
    [entry] = entries_of(catalog, subscribe(catalog, plan="other")["id"])
    assert (entry.billing_period, entry.billing_period_count) == ("quarter", 1)


def test_the_first_subscription_fixes_the_currency_of_a_customer_without_one(catalog: Api) -> None:
    catalog.post("/v1/customers", {"external_id": "new"})
    subscribe(catalog, customer="new")
    assert catalog.get("/v1/customers/new")["currency"] == "USD"


def test_a_plan_in_another_currency_is_refused(catalog: Api) -> None:
    catalog.post("/v1/customers", {"external_id": "euro", "currency": "EUR"})
    problem = subscribe(catalog, customer="euro", status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("subscription.currency_mismatch", "/plan")


def test_a_subscription_stays_on_its_version(catalog: Api) -> None:
    first = subscribe(catalog)
    catalog.post("/v1/plans/pro/versions", {"prices": []})
    assert catalog.get(f"/v1/subscriptions/{first['id']}")["plan_version"] == 1
    assert subscribe(catalog)["plan_version"] == 2
    assert subscribe(catalog, plan_version=1)["plan_version"] == 1


def test_an_override_is_a_whole_price_on_the_plans_terms(catalog: Api) -> None:
    override = {"model": "per_unit", "unit_amount": "8"}
    kept = subscribe(catalog, price_overrides={"seats": override})["price_overrides"]["seats"]
    assert {name: kept[name] for name in override} == override
    assert (kept["key"], kept["type"], kept["billing_period"], kept["timing"]) == ("seats", "fixed", "month", "advance")


def test_an_override_without_a_model_changes_single_fields(catalog: Api) -> None:
    kept = subscribe(catalog, price_overrides={"seats": {"discount_percent": "25"}})["price_overrides"]["seats"]
    plan = next(price for price in catalog.get("/v1/plans/pro")["prices"] if price["key"] == "seats")
    assert kept == plan | {"discount_percent": "25"}


def test_a_list_is_filtered_by_customer_plan_and_status(catalog: Api) -> None:
    catalog.post("/v1/customers", {"external_id": "other"})
    mine, other = subscribe(catalog), subscribe(catalog, customer="other")
    assert [each["id"] for each in catalog.get("/v1/subscriptions")["data"]] == [other["id"], mine["id"]]
    assert [each["id"] for each in catalog.get("/v1/subscriptions?customer=acme")["data"]] == [mine["id"]]
    assert len(catalog.get("/v1/subscriptions?plan=pro&status=active")["data"]) == 2
    assert catalog.get("/v1/subscriptions?status=canceled")["data"] == []
    assert catalog.get("/v1/subscriptions?customer=none", status=404)["code"] == "customer.not_found"


BAD: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"customer": "none"}, 404, "customer.not_found", None),
    ({"plan": "none"}, 404, "plan.not_found", None),
    ({"plan_version": 2}, 404, "plan.not_found", None),
    ({"plan_version": 0}, 422, "request.invalid_field", "/plan_version"),
    ({"start_at": "yesterday"}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": "2026-01-01T00:00:00"}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": "2026-02-30T00:00:00Z"}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": "0001-01-01T00:00:00+14:00"}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": "9999-12-31T23:59:59Z"}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": 1767225600}, 422, "request.invalid_field", "/start_at"),
    ({"start_at": "1971-01-01T00:00:00Z", "plan": "daily"}, 422, "subscription.too_many_missed_periods", "/start_at"),
    ({"end_at": "2026-03-10T12:00:00Z"}, 422, "subscription.invalid_end", "/end_at"),
    ({"alignment": "lunar"}, 422, "request.invalid_field", "/alignment"),
    (
        {"alignment": "calendar", "billing_anchor": "2026-01-01T00:00:00Z"},
        422,
        "subscription.invalid_anchor",
        "/billing_anchor",
    ),
    ({"quantities": {"none": "1"}}, 422, "subscription.unknown_price", "/quantities/none"),
    ({"quantities": {"tokens": "1"}}, 422, "subscription.invalid_quantity", "/quantities/tokens"),
    ({"quantities": {"seats": "-1"}}, 422, "subscription.invalid_quantity", "/quantities/seats"),
    ({"quantities": {"seats": "1e13"}}, 422, "subscription.invalid_quantity", "/quantities/seats"),
    ({"quantities": {"seats": "many"}}, 422, "request.invalid_field", "/quantities/seats"),
    ({"price_overrides": {"none": {}}}, 422, "subscription.unknown_price", "/price_overrides/none"),
    ({"price_overrides": {"seats": {"model": "flat"}}}, 422, "pricing.invalid_field", "/price_overrides/seats/amount"),
    (
        {"price_overrides": {"seats": {"model": "flat", "amount": "1", "key": "x"}}},
        422,
        "subscription.invalid_override",
        "/price_overrides/seats/key",
    ),
    ({"discounts": [{"coupon": "x"}]}, 422, "coupon.not_found", "/discounts/0/coupon"),
    ({"discounts": [{"coupon": "x", "percent": "5"}]}, 422, "request.unknown_field", "/discounts/0/percent"),
    ({"discounts": [{"percent": "-1"}]}, 422, "pricing.invalid_decimal", "/discounts/0/percent"),
    ({"commitment": {"amount": "-1"}}, 422, "pricing.invalid_decimal", "/commitment/amount"),
    ({"trial_days": -1}, 422, "request.invalid_field", "/trial_days"),
    (
        {"trial_days": 14, "billing_anchor": "2026-04-01T00:00:00Z"},
        422,
        "subscription.invalid_anchor",
        "/billing_anchor",
    ),
    ({"trial_end_behavior": "explode"}, 422, "request.invalid_field", "/trial_end_behavior"),
    ({"addons": ["x"]}, 422, "addon.not_found", "/addons/0/addon"),
    ({"addons": ["clash"]}, 422, "subscription.duplicate_price", "/addons/0/addon"),
    ({"addons": ["extra", "again"]}, 422, "subscription.duplicate_price", "/addons/1/addon"),
    ({"addons": ["extra", "extra"]}, 422, "subscription.duplicate_addon", "/addons/1/addon"),
    ({"addons": ["euro"]}, 422, "subscription.currency_mismatch", "/addons/0/addon"),
    ({"addons": [{"addon": "extra", "version": 7}]}, 422, "addon.not_found", "/addons/0/addon"),
    ({"addons": [{"addon": "extra", "quantity": "0"}]}, 422, "subscription.invalid_quantity", "/addons/0/quantity"),
    ({"phases": [{"starts_at": "2026-03-10T12:00:00Z"}]}, 422, "subscription.invalid_phase", "/phases/0/starts_at"),
    (
        {"phases": [{"starts_at": "2026-05-01T00:00:00Z", "quantities": {"none": "1"}}]},
        422,
        "subscription.unknown_price",
        "/phases/0/quantities/none",
    ),
    (
        {"end_at": "2026-05-01T00:00:00Z", "phases": [{"starts_at": "2026-05-01T00:00:00Z"}]},
        422,
        "subscription.after_end",
        "/phases/0/starts_at",
    ),
]


@pytest.mark.parametrize(("change", "status", "code", "pointer"), BAD)
def test_a_bad_subscription_is_refused_and_leaves_nothing(
    catalog: Api, change: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    daily = {"key": "fee", "type": "fixed", "model": "flat", "amount": "1", "billing_period": "day"}
    catalog.post("/v1/plans", {"key": "daily", "currency": "USD", "prices": [daily]})
    for key, price, currency in (
        ("clash", "base", "USD"),
        ("extra", "x", "USD"),
        ("again", "x", "USD"),
        ("euro", "y", "EUR"),
    ):
        catalog.post("/v1/addons", {"key": key, "currency": currency, "prices": [{**daily, "key": price}]})
    problem = subscribe(catalog, status=status, **change)
    assert problem["code"] == code
    assert pointer is None or problem["errors"][0]["pointer"] == pointer
    assert catalog.get("/v1/subscriptions")["data"] == []


def test_as_many_missed_periods_as_the_limit_are_taken(catalog: Api) -> None:
    daily = {"key": "fee", "type": "fixed", "model": "flat", "amount": "1", "billing_period": "day"}
    catalog.post("/v1/plans", {"key": "daily", "currency": "USD", "prices": [daily]})
    assert MAX_MISSED_PERIODS > 365
    assert subscribe(catalog, plan="daily", start_at="2025-03-10T12:00:00Z")["status"] == "active"


def test_fields_of_a_later_release_may_say_nothing(catalog: Api) -> None:
    assert subscribe(catalog, trial_days=0, addons=[], commitment=None)["status"] == "active"


def test_an_archived_customer_takes_no_subscription(catalog: Api) -> None:
    catalog.post("/v1/customers/acme/archive", {}, status=200)
    assert subscribe(catalog, status=409)["code"] == "customer.archived"


def test_a_threshold_is_set_shown_changed_and_taken_away(catalog: Api) -> None:
    subscription = subscribe(catalog, invoice_threshold="50")
    assert subscription["invoice_threshold"] == "50.00"
    shown = [
        catalog.http.patch(f"/v1/subscriptions/{subscription['id']}", json=body).json()["invoice_threshold"]
        for body in ({"invoice_threshold": "70.5"}, {"metadata": {"team": "red"}}, {"invoice_threshold": None})
    ]
    assert shown == ["70.50", "70.50", None]
    for refused in ("0", "-1", "0.001"):
        problem = subscribe(catalog, invoice_threshold=refused, status=422)
        assert problem["errors"][0]["pointer"] == "/invoice_threshold"


def test_pausing_resuming_and_activating_need_no_body(catalog: Api) -> None:
    draft = subscribe(catalog, draft=True)
    found = []
    for action in ("activate", "pause", "resume"):
        with catalog.at(NOW):
            answered = catalog.http.post(f"/v1/subscriptions/{draft['id']}/{action}")
        found.append((answered.status_code, answered.json()["status"]))
    assert found == [(200, "active"), (200, "paused"), (200, "active")]
