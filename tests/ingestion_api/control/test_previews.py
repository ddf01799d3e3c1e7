"""Every change of a subscription over HTTP: what its preview says is what then happens, to the last digit."""

import json
from typing import Any

import pytest

from infra.postgres.billing import load_subscriptions
from schemas.billing import BilledSubscription
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import METER, World

START, TODAY = "2026-01-01T00:00:00Z", "2026-01-10T12:00:00Z"
BASE = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
SEATS = {"key": "seats", "type": "fixed", "model": "per_unit", "unit_amount": "10"}
YEARLY = {"key": "yearly", "type": "fixed", "model": "flat", "amount": "120", "billing_period": "year"}
AFTER = {"key": "after", "type": "fixed", "model": "flat", "amount": "7", "timing": "arrears"}
TOKENS = {"key": "tokens", "type": "usage", "meter": METER, "model": "per_unit", "unit_amount": "0.01"}
TIERS = [{"up_to": "100", "unit_amount": "0.5"}, {"up_to": None, "unit_amount": "0.25"}]
GRADUATED = {"key": "tokens", "type": "usage", "meter": METER, "model": "graduated", "tiers": TIERS}
SUPPORT = {"key": "support", "type": "fixed", "model": "flat", "amount": "20"}
SETUP = {"key": "setup", "type": "fixed", "model": "flat", "amount": "500", "billing_period": "once"}

#: What an invoice has only once it is issued.
ISSUED = {
    "id",
    "number",
    "status",
    "created_at",
    "issued_at",
    "finalized_at",
    "as_of",
    "due_at",
    "draft_until",
    "paid_at",
}


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    """An admin of the world's tenant, with plans, add-ons and a coupon."""
    api = api_of(world, billed, "admin")
    for key, prices in (
        ("small", [BASE, SEATS, TOKENS]),
        ("big", [{**BASE, "amount": "99"}, {**SEATS, "unit_amount": "8"}, GRADUATED, AFTER]),
        ("mixed", [BASE, YEARLY, TOKENS]),
    ):
        api.post("/v1/plans", {"key": key, "currency": "USD", "prices": prices})
    api.post("/v1/addons", {"key": "support", "currency": "USD", "prices": [SUPPORT, SETUP]})
    api.post("/v1/coupons", {"key": "half", "percent": "50", "duration": "once"})
    api.post("/v1/customers", {"external_id": "acme"})
    return api


def subscribe(api: Api, world: World, **body: Any) -> str:
    """A subscription since the first of January, billed up to today, with usage through the first of April."""
    with api.at(START):
        made = api.post(
            "/v1/subscriptions", {"customer": "acme", "plan": "small", "quantities": {"seats": "3"}, **body}
        )
    days = [(month, day) for month in (1, 2, 3) for day in range(1, 28, 3)]
    world.use(loaded(world)[0], *((f"2026-{month:02}-{day:02}T06:00:00", 7 * day + month) for month, day in days))
    world.stored_until("2026-01-02")
    bill(world, TODAY)
    return made["id"]


def loaded(world: World) -> list[BilledSubscription]:
    """All subscriptions of the world's tenant."""
    with world.doors.database.transaction() as connection:
        rows = connection.execute("SELECT id FROM subscriptions WHERE tenant_id = %s", (world.tenant_id,)).fetchall()
        return load_subscriptions(connection, [row["id"] for row in rows])


def bill(world: World, now: str) -> None:
    """What the sweep does."""
    result = world.bill(*loaded(world), now=now.removesuffix("Z"))
    assert (result.parked, result.waiting) == (0, 0)


def core(invoice: dict[str, Any]) -> dict[str, Any]:
    lines = [{name: value for name, value in line.items() if name != "id"} for line in invoice["lines"]]
    return {**{name: value for name, value in invoice.items() if name not in ISSUED}, "lines": lines}


def row_of(world: World, subscription_id: str) -> list[dict[str, Any]]:
    phases = world.rows(
        "SELECT * FROM subscription_phases WHERE subscription_id = %(id)s ORDER BY no", id=subscription_id
    )
    return [*world.rows("SELECT * FROM subscriptions WHERE id = %(id)s", id=subscription_id), *phases]


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "upgrade now": ("change", {"plan": "big", "at": "now"}),
    "upgrade now, invoiced now": ("change", {"plan": "big", "at": "now", "invoice": "now"}),
    "upgrade now, without proration": ("change", {"plan": "big", "at": "now", "proration": "none"}),
    "downgrade at the period's end": ("change", {"plan": "big", "at": "period_end"}),
    "change at a time to come": ("change", {"plan": "big", "at": "2026-01-20T08:30:00Z"}),
    "change of plan with another period": ("change", {"plan": "mixed", "at": "2026-02-11T00:00:00Z"}),
    "more seats now": ("change", {"quantities": {"seats": "5"}, "at": "now"}),
    "fewer seats now": ("change", {"quantities": {"seats": "1"}, "at": "now", "invoice": "now"}),
    "an override": ("change", {"price_overrides": {"tokens": {"unit_amount": "0.007"}}, "at": "now"}),
    "an add-on": ("change", {"addons": ["support"], "at": "now"}),
    "an add-on, invoiced now": (
        "change",
        {"addons": [{"addon": "support", "quantity": "2"}], "at": "now", "invoice": "now"},
    ),
    "a commitment": ("change", {"commitment": {"amount": "500", "true_up": True}, "at": "now"}),
    "a coupon": ("change", {"discounts": [{"coupon": "half"}], "at": "now"}),
    "a pause": ("pause", {"at": "now"}),
    "a pause without proration": ("pause", {"at": "now", "proration": "none"}),
    "a pause at a time to come": ("pause", {"at": "2026-01-15T00:00:00Z", "resume_at": "2026-01-20T00:00:00Z"}),
    "a cancellation now": ("cancel", {"at": "now"}),
    "a cancellation now, prorated": ("cancel", {"at": "now", "proration": "prorate", "invoice": "now"}),
    "a cancellation at the period's end": ("cancel", {"at": "period_end"}),
    "a cancellation at a time to come": ("cancel", {"at": "2026-01-21T12:00:00Z", "proration": "prorate"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_invoice_of_a_preview_is_the_one_that_is_issued(world: World, api: Api, name: str) -> None:
    action, body = CHANGES[name]
    agree(world, api, subscribe(api, world), action, body, on=TODAY)


#: Changes of a subscription that begins with other terms: how it begins, and what then changes.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "downgrade now": ({"plan": "big"}, {"plan": "small", "at": "now"}),
    "downgrade now, invoiced now": ({"plan": "big"}, {"plan": "small", "at": "now", "invoice": "now"}),
    "downgrade now, without proration": ({"plan": "big"}, {"plan": "small", "at": "now", "proration": "none"}),
    "downgrade at the period's end": ({"plan": "big"}, {"plan": "small", "at": "period_end"}),
    "an add-on taken away": ({"addons": ["support"]}, {"addons": [], "at": "now"}),
    "a commitment of a quarter": (
        {"plan": "mixed", "quantities": {}},
        {
            "commitment": {"amount": "500", "true_up": True, "billing_period": "quarter"},
            "at": "2026-02-01T00:00:00Z",
        },
    ),
    "a change under a coupon and a discount": (
        {"discounts": [{"coupon": "half"}, {"percent": "10"}]},
        {"quantities": {"seats": "9"}, "at": "now", "invoice": "now"},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_so_is_that_of_a_change_of_other_terms(world: World, api: Api, name: str) -> None:
    begins, body = OTHERS[name]
    agree(world, api, subscribe(api, world, **begins), "change", body, on=TODAY)


CREATIONS: dict[str, dict[str, Any]] = {
    "as the plan is": {},
    "with add-ons": {"addons": [{"addon": "support", "quantity": "2"}]},
    "with a coupon": {"discounts": [{"coupon": "half"}]},
    "with prices of its own": {"price_overrides": {"base": {"amount": "20"}}},
    "backdated": {"start_at": "2025-12-15T00:00:00Z"},
    "to begin later": {"start_at": "2026-01-20T00:00:00Z"},
    "aligned with the calendar": {"start_at": "2026-01-10T00:00:00Z", "alignment": "calendar"},
    "with phases": {"phases": [{"starts_at": "2026-01-16T00:00:00Z", "plan": "big", "invoice": "now"}]},
    "with an end": {"end_at": "2026-01-20T00:00:00Z"},
}


@pytest.mark.parametrize("name", CREATIONS)
def test_the_preview_of_a_new_subscription_has_its_first_invoice(world: World, api: Api, name: str) -> None:
    body = {"customer": "acme", "plan": "small", "quantities": {"seats": "3"}, **CREATIONS[name]}
    with api.at(START):
        previewed = api.post("/v1/subscriptions", {**body, "preview": True}, status=200)
        assert api.get("/v1/subscriptions")["data"] == []
        made = api.post("/v1/subscriptions", body)
    issued(world, api, made["id"], of(made, previewed))


def of(made: dict[str, Any], previewed: dict[str, Any]) -> dict[str, Any]:
    """The invoice of the preview of a subscription that has been made since, under its id."""
    return json.loads(json.dumps(previewed["invoice"]).replace(previewed["id"], made["id"]))


def agree(
    world: World, api: Api, subscription_id: str, action: str, body: dict[str, Any], *, on: str
) -> dict[str, Any]:
    """Preview, see that nothing has changed, do it, bill, and compare the invoice, which is returned."""
    path = f"/v1/subscriptions/{subscription_id}"
    before = row_of(world, subscription_id)
    with api.at(on):
        previewed = api.post(f"{path}/{action}", {**body, "preview": True}, status=200)
        assert row_of(world, subscription_id) == before
        done = api.post(f"{path}/{action}", body, status=200)
        assert api.get(path) == {name: value for name, value in done.items() if name not in ("preview", "invoice")}
    assert {**previewed, "preview": False, "invoice": None} == done
    assert previewed["invoice"] is not None
    return issued(world, api, subscription_id, previewed["invoice"])


def issued(world: World, api: Api, subscription_id: str, previewed: dict[str, Any]) -> dict[str, Any]:
    """The invoice in the place of a preview, once all is billed; it must be what the preview says."""
    world.stored_until("2026-05-01")
    with api.at("2026-04-15T00:00:00Z"):
        bill(world, "2026-04-15T00:00:00Z")
    invoices = api.get("/v1/invoices", subscription=subscription_id, expand="explain", limit=50)["data"]
    [found] = [each for each in invoices if each["period"]["end"] == previewed["period"]["end"]]
    assert core(found) == core(previewed)
    return found


def amounts(invoice: dict[str, Any]) -> list[tuple[str, str]]:
    return [(line["key"], line["amount"]) for line in invoice["lines"]]


def test_resuming_charges_the_rest_of_the_period(world: World, api: Api) -> None:
    subscription_id = subscribe(api, world)
    with api.at(TODAY):
        api.post(f"/v1/subscriptions/{subscription_id}/pause", {"invoice": "now"}, status=200)
    world.stored_until("2026-01-12")
    bill(world, "2026-01-11")
    invoice = agree(
        world,
        api,
        subscription_id,
        "resume",
        {"at": "2026-01-21T12:00:00Z", "invoice": "now"},
        on="2026-01-12T00:00:00Z",
    )
    # 10.5 of 31 days: 49 x 10.5 / 31 and 30 x 10.5 / 31
    assert [each for each in amounts(invoice) if each[0] != "tokens"] == [("base", "16.60"), ("seats", "10.16")]


def test_a_change_at_an_instant_that_is_billed_up_to_stands_on_the_next_invoice(world: World, api: Api) -> None:
    subscription_id = subscribe(api, world)
    world.stored_until("2026-02-02")
    bill(world, "2026-02-02T00:00:00Z")
    agree(
        world, api, subscription_id, "change", {"plan": "big", "at": "2026-02-01T00:00:00Z"}, on="2026-02-02T06:00:00Z"
    )


def test_at_the_very_instant_of_an_invoice_the_next_one_is_previewed(world: World, api: Api) -> None:
    subscription_id = subscribe(api, world)
    world.stored_until("2026-02-02")
    with api.at("2026-02-01T00:00:00Z"):
        due = api.post("/v1/invoices/preview", {"subscription": subscription_id}, status=200)
        bill(world, "2026-02-01T00:00:00Z")
        [issued, *_] = api.get("/v1/invoices", subscription=subscription_id, expand="explain")["data"]
        assert core(due) == core(issued)
        following = api.post("/v1/invoices/preview", {"subscription": subscription_id}, status=200)
        running = api.get(f"/v1/subscriptions/{subscription_id}/usage")
    assert following["period"] == running["period"] == {"start": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    assert running["total"] != "0.00"


def test_a_free_subscription_has_nothing_to_come_but_has_not_ended(world: World, api: Api) -> None:
    api.post("/v1/plans", {"key": "free", "currency": "USD", "prices": []})
    with api.at(START):
        made = api.post("/v1/subscriptions", {"customer": "acme", "plan": "free"})
        assert made["status"] == "active"
        bill(world, START)
        refused = api.post("/v1/invoices/preview", {"subscription": made["id"]}, status=409)
        assert refused["code"] == "invoice.nothing_to_come"
        usage = api.get(f"/v1/subscriptions/{made['id']}/usage", status=409)
        assert usage["code"] == "invoice.nothing_to_come"
        api.post(f"/v1/subscriptions/{made['id']}/cancel", {"at": "now"}, status=200)
        bill(world, START)
        refused = api.post("/v1/invoices/preview", {"subscription": made["id"]}, status=409)
    assert refused["code"] == "subscription.ended"


def test_an_add_on_is_charged_as_often_as_it_is_had(world: World, api: Api) -> None:
    body = {"addons": [{"addon": "support", "quantity": "2"}], "invoice": "now"}
    invoice = agree(world, api, subscribe(api, world), "change", body, on=TODAY)
    # 21.5 of 31 days of 2 x 20, and 2 x 500 once
    fees = sorted(each for each in amounts(invoice) if each[0] != "tokens")
    assert fees == [("setup", "1000.00"), ("support", "27.74")]


def test_a_second_change_builds_on_the_first(world: World, api: Api) -> None:
    subscription_id = subscribe(api, world)
    with api.at(TODAY):
        api.post(f"/v1/subscriptions/{subscription_id}/change", {"plan": "big"}, status=200)
        api.post(f"/v1/subscriptions/{subscription_id}/change", {"addons": ["support"]}, status=200)
    agree(world, api, subscription_id, "change", {"quantities": {"seats": "7"}}, on="2026-01-20T00:00:00Z")


@pytest.mark.parametrize("trial_end", ["activate", "cancel", "cancel_without_payment_method"])
def test_in_a_trial_nothing_is_billed_and_its_end_begins_the_first_period(
    world: World, api: Api, trial_end: str
) -> None:
    body = {"customer": "acme", "plan": "small", "trial_days": 14, "trial_end_behavior": trial_end}
    with api.at(START):
        previewed = api.post("/v1/subscriptions", {**body, "preview": True}, status=200)
        assert api.get("/v1/subscriptions")["data"] == []
        made = api.post("/v1/subscriptions", body)
    assert (made["status"], made["trial_end_at"]) == ("trialing", "2026-01-15T00:00:00Z")
    assert (made["billing_anchor"], made["next_bill_at"]) == ("2026-01-15T00:00:00Z", "2026-01-15T00:00:00Z")
    if trial_end == "activate":
        found = issued(world, api, made["id"], of(made, previewed))
        assert amounts(found) == [("base", "49.00"), ("seats", "10.00")]
        expected = "active"
    else:
        assert previewed["invoice"] is None
        bill(world, "2026-04-15T00:00:00Z")
        assert api.get("/v1/invoices", subscription=made["id"])["data"] == []
        expected = "canceled"
    after = api.get(f"/v1/subscriptions/{made['id']}")
    assert after["status"] == expected
    if expected == "canceled":
        assert (after["canceled_at"], after["current_period"]) == ("2026-01-15T00:00:00Z", None)


def test_a_draft_is_billed_once_it_is_activated(world: World, api: Api) -> None:
    with api.at(START):
        made = api.post("/v1/subscriptions", {"customer": "acme", "plan": "small", "draft": True})
    assert (made["status"], made["next_bill_at"]) == ("draft", None)
    bill(world, TODAY)
    assert api.get("/v1/invoices", subscription=made["id"])["data"] == []
    with api.at(TODAY):
        assert api.get(f"/v1/subscriptions/{made['id']}")["status"] == "draft"
    found = agree(world, api, made["id"], "activate", {}, on=TODAY)
    assert found["period"]["end"] == TODAY


def test_phases_that_are_known_from_the_first_day_are_billed_as_changes_are(world: World, api: Api) -> None:
    phases = [
        {"starts_at": "2026-01-11T00:00:00Z", "plan": "big", "invoice": "now"},
        {"starts_at": "2026-02-01T00:00:00Z", "addons": ["support"], "proration": "none"},
        {"starts_at": "2026-02-15T00:00:00Z", "paused": True},
        {"starts_at": "2026-03-05T00:00:00Z"},
    ]
    api.post("/v1/customers", {"external_id": "twin"})
    with api.at("2026-04-10T00:00:00Z"):
        backdated = api.post(
            "/v1/subscriptions", {"customer": "acme", "plan": "small", "start_at": START, "phases": phases}
        )
    assert [phase["state"] for phase in backdated["phases"]] == ["past"] * 4 + ["current"]
    assert [phase["paused"] for phase in backdated["phases"]] == [False, False, False, True, False]
    with api.at(START):
        twin = api.post("/v1/subscriptions", {"customer": "twin", "plan": "small"})
    world.stored_until("2026-05-01")
    bill(world, START)
    path = f"/v1/subscriptions/{twin['id']}"
    for on, action, body in (
        ("2026-01-11T00:00:00Z", "change", {"plan": "big", "invoice": "now"}),
        ("2026-02-01T00:00:00Z", "change", {"addons": ["support"], "proration": "none"}),
        ("2026-02-15T00:00:00Z", "pause", {}),
        ("2026-03-05T00:00:00Z", "resume", {}),
    ):
        with api.at(on):
            api.post(f"{path}/{action}", body, status=200)
        bill(world, on)
    bill(world, "2026-04-10T00:00:00Z")

    def totals(subscription_id: str) -> list[tuple[str, str]]:
        found = api.get("/v1/invoices", subscription=subscription_id, limit=50)["data"]
        return [(each["period"]["end"], each["total"]) for each in found]

    assert totals(backdated["id"]) == totals(twin["id"])
    assert len(totals(twin["id"])) == 5


def test_a_coupon_takes_part_as_long_as_it_says(world: World, api: Api) -> None:
    api.post("/v1/coupons", {"key": "twice", "amount": "5", "currency": "USD", "duration": "repeating", "periods": 2})
    with api.at(START):
        made = api.post(
            "/v1/subscriptions",
            {
                "customer": "acme",
                "plan": "small",
                "discounts": [{"coupon": "half"}, {"coupon": "twice"}, {"percent": "10"}],
            },
        )
    world.stored_until("2026-05-01")
    bill(world, "2026-04-02T00:00:00Z")
    found = api.get("/v1/invoices", subscription=made["id"], limit=50)["data"]
    # 59: half of it, 5 and a tenth; then 5 and a tenth; then a tenth alone
    assert [each["discount"] for each in reversed(found)] == ["36.95", "10.40", "5.90", "5.90"]
    discounts = api.get(f"/v1/subscriptions/{made['id']}")["discounts"]
    assert [(each["coupon"], each["applied"]) for each in discounts] == [("half", 1), ("twice", 2), (None, 4)]


def test_a_cancellation_and_a_change_are_taken_back(world: World, api: Api) -> None:
    subscription_id = subscribe(api, world)
    path = f"/v1/subscriptions/{subscription_id}"
    with api.at(TODAY):
        before = api.get(path)
        for name, code in (("cancellation", "not_canceled"), ("scheduled_changes", "nothing_scheduled")):
            assert api.http.delete(f"{path}/{name}").json()["code"] == f"subscription.{code}"
        api.post(f"{path}/cancel", {"at": "period_end"}, status=200)
        api.post(f"{path}/change", {"plan": "big", "at": "2026-01-20T00:00:00Z"}, status=200)
        assert api.get(path)["phases"][1]["state"] == "scheduled"
        assert api.http.delete(f"{path}/scheduled_changes").status_code == 200
        assert api.http.delete(f"{path}/cancellation").status_code == 200
        assert api.get(path) == before
