"""Dunning over HTTP: its settings, what an invoice and a subscription show of it, and what stays allowed meanwhile."""

import threading
from typing import Any

import pytest

from billing_workflows.due import run_all
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from schemas.workflows import BILLS, DUNNING
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import World, instant

SCHEDULE = {"retry_days": [1, 3], "reminder_days": [2, 5], "block_days": 4, "final": "cancel", "final_days": 10}
FEE = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
START = "2026-01-01T00:00:00Z"


@pytest.fixture
def admin(world: World, billed: Api) -> Api:
    """The admin of a shop with a schedule of dunning, and a plan that entitles to sso."""
    api = api_of(world, billed, "admin")
    assert api.http.patch("/v1/settings", json={"dunning": SCHEDULE}).json()["dunning"] == SCHEDULE
    api.post("/v1/features", {"key": "sso", "type": "boolean"})
    api.post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [FEE], "entitlements": [{"feature": "sso"}]})
    return api


def begin(world: World, api: Api, customer: str = "acme", *, is_new: bool = True) -> tuple[str, str]:
    """A subscription that has begun with an open invoice; their ids."""
    with api.at(START):
        if is_new:
            api.post("/v1/customers", {"external_id": customer})
        subscription = api.post("/v1/subscriptions", {"customer": customer, "plan": "pro"})["id"]
    bill(world, START)
    return subscription, api.get("/v1/invoices", subscription=subscription)["data"][0]["id"]


def bill(world: World, now: str) -> None:
    run_all(world.doors, BILLS, Moment(now=instant(now[:10])))


def dun(world: World, *days: int) -> None:
    for day in days:
        run_all(world.doors, DUNNING, Moment(now=instant(f"2026-01-{day:02}")))


def show(api: Api, path: str, day: int) -> Any:
    with api.at(f"2026-01-{day:02}T00:00:00Z"):
        return api.get(path)


def allowed(api: Api, day: int) -> tuple[bool, str]:
    with api.at(f"2026-01-{day:02}T12:00:00Z"):
        found = api.post("/v1/entitlements/check", {"customer": "acme", "feature": "sso"}, status=200)
    return found["allowed"], found["reason"]


def act(api: Api, path: str, day: int, body: Any = None, *, status: int = 200) -> Any:
    with api.at(f"2026-01-{day:02}T12:00:00Z"):
        return api.post(path, body or {}, status=status)


def told(world: World, *types: str) -> list[Any]:
    return [
        row["data"]
        for row in world.rows(
            "SELECT data FROM outbox WHERE tenant_id = %(tenant)s AND type = ANY(%(types)s) ORDER BY no",
            tenant=world.tenant_id,
            types=list(types),
        )
    ]


@pytest.mark.parametrize(
    "dunning",
    [
        {"retry_days": [3, 1]},
        {"retry_days": [1, 1]},
        {"reminder_days": [5, 5, 6]},
        {"retry_days": [0]},
        {"retry_days": [-1]},
        {"retry_days": [366]},
        {"retry_days": ["1"]},
        {"retry_days": [1.5]},
        {"retry_days": [True]},
        {"retry_days": 1},
        {"retry_days": list(range(1, 22))},
        {"reminder_days": [None]},
        {"block_days": 0},
        {"block_days": 10**30},
        {"final": "burn"},
        {"final": None},
        {"final": "cancel", "final_days": 1},
        {"final": "cancel", "retry_days": [30]},
        {"final": "uncollectible", "reminder_days": [29, 31]},
        {"final_days": 0},
        {"final_days": None},
        {"more": 1},
        [],
        "none",
    ],
)
def test_a_schedule_that_cannot_be_kept_to_is_refused_and_changes_nothing(api: Api, dunning: Any) -> None:
    answered = api.http.patch("/v1/settings", json={"dunning": dunning})
    assert answered.status_code == 422
    assert answered.json()["errors"][0]["pointer"].startswith("/dunning")
    assert api.get("/v1/settings")["dunning"] is None


def test_a_schedule_is_replaced_as_a_whole_and_taken_away_by_null(api: Api) -> None:
    api.http.patch("/v1/settings", json={"dunning": SCHEDULE})
    changed = api.http.patch("/v1/settings", json={"dunning": {"retry_days": [2]}}).json()["dunning"]
    assert changed == {"retry_days": [2], "reminder_days": [], "block_days": None, "final": "keep", "final_days": 30}
    assert api.http.patch("/v1/settings", json={"net_days": 3}).json()["dunning"] == changed
    assert api.http.patch("/v1/settings", json={"dunning": None}).json()["dunning"] is None


def test_an_invoice_shows_what_is_done_about_it_and_reminders_say_what_a_letter_needs(world: World, admin: Api) -> None:
    subscription, invoice = begin(world, admin)
    assert show(admin, f"/v1/invoices/{invoice}", 1)["dunning"] is None
    dun(world, 2)
    shown = show(admin, f"/v1/invoices/{invoice}", 2)["dunning"]
    assert (shown["status"], shown["overdue_at"], shown["next_step_at"]) == (
        "running",
        "2026-01-02T00:00:00Z",
        "2026-01-03T00:00:00Z",
    )
    assert (shown["blocks_at"], shown["final"]) == ("2026-01-05T00:00:00Z", "cancel")
    act(admin, "/v1/payments", 2, {"invoice": invoice, "amount": "9"}, status=201)
    dun(world, 3)
    [reminder] = told(world, "invoice.payment_reminder")
    assert (reminder["number"], reminder["amount_remaining"], reminder["days_overdue"]) == ("INV-000001", "40.00", 2)
    assert (reminder["reminders"], reminder["next_step_at"], reminder["final"]) == (1, "2026-01-04T00:00:00Z", "cancel")
    assert reminder["subscription"] == subscription
    [past_due] = told(world, "subscription.past_due")
    assert (past_due["id"], past_due["status"], past_due["customer"]) == (subscription, "past_due", "acme")
    assert [one["id"] for one in show(admin, "/v1/subscriptions?status=past_due", 3)["data"]] == [subscription]
    dun(world, *range(4, 12))
    over = show(admin, f"/v1/invoices/{invoice}", 11)
    assert (over["status"], over["dunning"]["status"], over["dunning"]["reminders"]) == ("uncollectible", "over", 2)
    assert show(admin, f"/v1/subscriptions/{subscription}", 11)["status"] == "canceled"


def test_features_are_refused_from_the_day_of_the_schedule_until_the_invoice_is_paid(world: World, admin: Api) -> None:
    subscription, invoice = begin(world, admin)
    dun(world, 2)
    assert show(admin, f"/v1/subscriptions/{subscription}", 2)["blocked_at"] == "2026-01-05T00:00:00Z"
    assert allowed(admin, 4) == (True, "unlimited")
    assert allowed(admin, 5) == (False, "subscription_inactive")
    assert show(admin, "/v1/customers/acme/entitlements", 6)["data"] == []
    act(admin, f"/v1/invoices/{invoice}/pay", 6)
    assert allowed(admin, 6) == (True, "unlimited")
    [recovered] = told(world, "subscription.recovered")
    assert (recovered["id"], recovered["status"], recovered["past_due_since"]) == (subscription, "active", None)


def test_features_end_for_good_with_a_subscription_that_is_canceled_for_want_of_payment(
    world: World, admin: Api
) -> None:
    admin.http.patch("/v1/settings", json={"dunning": {**SCHEDULE, "block_days": None}})
    subscription, invoice = begin(world, admin)
    dun(world, *range(2, 12))
    assert allowed(admin, 10) == (True, "unlimited")
    assert allowed(admin, 11) == (False, "subscription_inactive")
    act(admin, f"/v1/invoices/{invoice}/pay", 12)
    assert allowed(admin, 12) == (False, "subscription_inactive")
    bill(world, "2026-01-12")
    found = show(admin, f"/v1/subscriptions/{subscription}", 12)
    assert (found["status"], found["canceled_at"]) == ("canceled", "2026-01-11T00:00:00Z")
    assert len(told(world, "subscription.canceled")) == 1
    assert told(world, "subscription.recovered") == []


@pytest.mark.parametrize(
    ("final", "status", "after"),
    [("keep", "past_due", (False, "subscription_inactive")), ("uncollectible", "active", (True, "unlimited"))],
)
def test_what_the_schedule_ends_with_says_whether_features_come_back(
    world: World, admin: Api, final: str, status: str, after: tuple[bool, str]
) -> None:
    admin.http.patch("/v1/settings", json={"dunning": {**SCHEDULE, "final": final}})
    subscription, _ = begin(world, admin)
    dun(world, *range(2, 11))
    assert allowed(admin, 10) == (False, "subscription_inactive")
    dun(world, 11)
    assert show(admin, f"/v1/subscriptions/{subscription}", 12)["status"] == status
    assert allowed(admin, 12) == after


def test_whatever_is_done_to_a_subscription_can_be_done_while_it_is_past_due(world: World, admin: Api) -> None:
    subscription, invoice = begin(world, admin)
    dun(world, 2)
    own = f"/v1/subscriptions/{subscription}"
    assert act(admin, f"{own}/pause", 3)["status"] == "paused"
    assert allowed(admin, 3) == (False, "subscription_inactive")
    assert act(admin, f"{own}/resume", 4)["status"] == "past_due"
    assert act(admin, f"{own}/change", 4, {"price_overrides": {"base": {"amount": "90"}}})["status"] == "past_due"
    assert act(admin, f"{own}/change", 4, {"price_overrides": {"base": {"amount": "80"}}, "at": "period_end"})
    with admin.at("2026-01-04T12:00:00Z"):
        assert admin.http.delete(f"{own}/scheduled_changes").json()["status"] == "past_due"
        assert admin.http.patch(own, json={"metadata": {"a": "b"}}).json()["status"] == "past_due"
    assert act(admin, f"{own}/cancel", 4, {"at": "period_end"})["status"] == "past_due"
    with admin.at("2026-01-04T12:00:00Z"):
        assert admin.http.delete(f"{own}/cancellation").json()["status"] == "past_due"
    bill(world, "2026-02-01")
    assert len(admin.get("/v1/invoices", subscription=subscription)["data"]) == 2
    with admin.at("2026-02-02T00:00:00Z"):
        assert admin.post(f"{own}/cancel", {"at": "now"}, status=200)["status"] == "canceled"
        admin.post(f"/v1/invoices/{invoice}/pay", {}, status=200)
    assert told(world, "subscription.recovered") == []


def test_an_invoice_to_a_parent_makes_the_childs_subscription_past_due(world: World, admin: Api) -> None:
    with admin.at(START):
        admin.post("/v1/customers", {"external_id": "head", "currency": "USD"})
        admin.post("/v1/customers", {"external_id": "acme", "parent": "head"})
    subscription, invoice = begin(world, admin, is_new=False)
    assert admin.get(f"/v1/invoices/{invoice}")["customer"] == "head"
    dun(world, 2)
    assert show(admin, f"/v1/subscriptions/{subscription}", 2)["status"] == "past_due"
    assert [(one["customer"], one["id"]) for one in told(world, "subscription.past_due")] == [("acme", subscription)]
    act(admin, f"/v1/invoices/{invoice}/void", 2)
    assert show(admin, f"/v1/subscriptions/{subscription}", 2)["status"] == "active"


def test_dunning_that_is_stopped_does_nothing_more_and_refuses_nothing(world: World, admin: Api) -> None:
    subscription, invoice = begin(world, admin)
    path = f"/v1/invoices/{invoice}/stop_dunning"
    assert act(admin, path, 1, status=409)["code"] == "invoice.not_dunned"
    dun(world, 2)
    stopped = act(admin, path, 2)["dunning"]
    assert (stopped["status"], stopped["next_step_at"], stopped["blocks_at"]) == ("over", None, None)
    dun(world, *range(3, 20))
    assert told(world, "invoice.payment_reminder", "invoice.marked_uncollectible") == []
    assert allowed(admin, 19) == (True, "unlimited")
    assert show(admin, f"/v1/subscriptions/{subscription}", 19)["status"] == "past_due"
    assert act(admin, path, 19, status=409)["code"] == "invoice.not_dunned"
    act(admin, "/v1/credit_notes", 19, {"invoice": invoice, "kind": "adjustment", "amount": "49"}, status=201)
    assert show(admin, f"/v1/subscriptions/{subscription}", 19)["status"] == "active"


def test_a_payment_and_the_final_step_at_once_leave_one_of_the_two(world: World, admin: Api) -> None:
    made = [begin(world, admin, f"customer {number}") for number in range(6)]
    dun(world, *range(2, 10))
    gate = threading.Barrier(2)

    def end() -> None:
        gate.wait()
        dun(world, 11)

    ending = threading.Thread(target=end)
    with admin.at("2026-01-11T00:00:00Z"):
        ending.start()
        gate.wait()
        for _, invoice in made:
            admin.post(f"/v1/invoices/{invoice}/pay", {}, status=200)
        ending.join()
        for subscription, invoice in made:
            paid = admin.get(f"/v1/invoices/{invoice}")
            given_up = paid["marked_uncollectible_at"] is not None
            assert paid["status"] == "paid"
            status = admin.get(f"/v1/subscriptions/{subscription}")["status"]
            assert status == ("canceled" if given_up else "active")
    with world.doors.database.transaction() as connection:
        broken = [each for found in find_broken(connection).values() for each in found]
    assert not {subscription for subscription, _ in made} & set(broken)
