"""Subscriptions that change, over the real stores: phases written as routes write them, billed as sweeps bill them."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from infra.postgres.billing import load_subscription
from infra.postgres.subscriptions import save_phases
from pricing.statements import bill_of, next_statement
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, Phase
from tests.support.billing import ADVANCE, USAGE, World, instant

DEARER = USAGE | {"unit_amount": "0.02"}


def stored(world: World, subscription: BilledSubscription) -> BilledSubscription:
    with world.doors.database.transaction() as connection:
        found = load_subscription(connection, tenant_id=world.tenant_id, subscription_id=subscription.id)
    assert found is not None
    return found


def change(world: World, subscription: BilledSubscription, at: str, *prices: dict[str, Any], **terms: Any) -> None:
    """One more phase, on the plan of a subscription of these prices, or on its own."""
    before = stored(world, subscription)
    plan = world.subscribe(*prices) if prices else before
    phase = Phase(
        no=0,
        starts_at=instant(at),
        plan_id=plan.plan_id,
        plan_version=1,
        prices=plan.prices,
        **terms,
    )
    changed = before.with_phase(phase)
    bill = bill_of(next_statement(read_terms(changed)))
    with world.doors.database.transaction() as connection:
        save_phases(connection, changed, bill_at=bill.at, usage_due=bill.usage_due, now=instant(at))


def lines(world: World, subscription: BilledSubscription) -> list[list[tuple[str, int]]]:
    return [[(line["key"], line["amount_minor"]) for line in each["lines"]] for each in world.invoices(subscription)]


def test_a_change_of_plan_bills_both_parts_of_the_period_by_their_own_prices(world: World) -> None:
    subscription = world.subscribe(ADVANCE, USAGE)
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 1000), ("2026-01-10T23:59:59", 1), ("2026-01-11", 500))
    change(world, subscription, "2026-01-11", ADVANCE | {"amount": "98"}, DEARER)
    world.bill(subscription, now="2026-02-01")
    assert lines(world, subscription) == [
        [("base", 49_00)],
        [("base", -33_19), ("base", 66_39), ("base", 98_00), ("tokens", 10_01), ("tokens", 10_00)],
    ]


def test_a_change_that_is_invoiced_now_is_billed_now(world: World) -> None:
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    change(world, subscription, "2026-01-11", quantities={"base": "1"}, is_paused=True, invoice_now=True)
    assert world.due("2026-01-11") == [subscription.id]
    world.bill(subscription, now="2026-01-11")
    assert lines(world, subscription) == [[("base", 49_00)], [("base", -33_19)]]
    assert world.row(subscription)["next_bill_at"] is None


def test_a_phase_that_is_scheduled_is_replaced_by_a_change_before_it(world: World) -> None:
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    change(world, subscription, "2026-03-01", ADVANCE | {"amount": "500"})
    change(world, subscription, "2026-02-01", ADVANCE | {"amount": "98"})
    assert [phase.starts_at for phase in stored(world, subscription).phases] == [
        instant("2026-01-01"),
        instant("2026-02-01"),
    ]
    world.bill(subscription, now="2026-03-02")
    assert lines(world, subscription) == [[("base", 49_00)], [("base", 98_00)], [("base", 98_00)]]


def test_a_change_made_when_its_instant_is_billed_stands_on_the_next_invoice(world: World) -> None:
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-02-01")
    change(world, subscription, "2026-02-01", ADVANCE | {"amount": "98"}, invoice_now=True)
    world.bill(subscription, now="2026-02-02")
    assert lines(world, subscription)[1:] == [[("base", 49_00)], [("base", -49_00), ("base", 98_00)]]


def test_a_trial_is_not_billed_and_ends_active_or_canceled(world: World) -> None:
    going_on = world.subscribe(
        status="trialing", trial_end_at=instant("2026-01-15"), next_bill_at=instant("2026-01-15")
    )
    ending = world.subscribe(
        status="trialing",
        trial_end_at=instant("2026-01-15"),
        trial_end_behavior="cancel_without_payment_method",
        next_bill_at=instant("2026-01-15"),
    )
    world.use(going_on, ("2026-01-10", 1000), ("2026-01-20", 100))
    world.stored_until("2026-03-01")
    world.bill(going_on, ending, now="2026-02-16")
    assert lines(world, going_on) == [[("base", 49_00)], [("base", 49_00), ("tokens", 1_00)]]
    assert lines(world, ending) == []
    assert [world.row(each)["status"] for each in (going_on, ending)] == ["active", "canceled"]


def test_a_discount_of_two_periods_applies_to_two_invoices(world: World) -> None:
    discount = {"percent": "10", "duration": "repeating", "periods": 2, "applied": 0}
    subscription = world.subscribe(ADVANCE, discounts=[discount, {"amount": "1"}])
    world.bill(subscription, now="2026-04-01")
    assert [each["discount_minor"] for each in world.invoices(subscription)] == [5_90, 5_90, 1_00, 1_00]
    assert [each["applied"] for each in world.row(subscription)["discounts"]] == [2, 4]


def test_the_parent_pays(world: World) -> None:
    parent, child = world.subscribe(ADVANCE), world.subscribe(ADVANCE)
    world.rows(
        "UPDATE customers SET parent_id = %(p)s WHERE id = %(c)s RETURNING 1", p=parent.customer_id, c=child.customer_id
    )
    world.bill(child, now="2026-01-01")
    [invoice] = world.invoices(child)
    assert (invoice["customer_id"], invoice["subscription_id"]) == (parent.customer_id, child.id)


def test_addons_and_overrides_are_billed_as_their_phases_say(world: World) -> None:
    extra = world.subscribe(ADVANCE | {"key": "extra", "amount": "5"})
    addon = {"addon": "extra", "addon_id": extra.plan_id, "version": 1, "quantity": "3"}
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    change(
        world,
        subscription,
        "2026-02-01",
        addons=[addon],
        addon_prices=[extra.prices],
        price_overrides={"base": {"amount": "40"}},
    )
    world.bill(subscription, now="2026-02-01")
    assert lines(world, subscription)[1] == [("base", 40_00), ("extra", 15_00)]
    assert stored(world, subscription).phases[1].addon_prices == [extra.prices]


def test_a_new_subscription_has_its_own_terms_as_its_first_phase(world: World) -> None:
    subscription = world.subscribe(ADVANCE, quantities={"base": "2"}, commitment={"amount": "3"})
    [phase] = stored(world, subscription).phases
    assert replace(phase, plan_key="") == replace(subscription.timeline[0], plan_key="")
    assert phase.commitment == {"amount": "3"}
    assert Decimal(phase.quantities["base"]) == 2
