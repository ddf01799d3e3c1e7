"""One invoice of all that is due of a payer at one instant: the sum of what each subscription's own would be."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest

from billing_workflows.thresholds import run_thresholds
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from schemas.billing import BilledSubscription
from schemas.workflows import BILLS, ChunkResult
from tests.support.billing import ADVANCE, USAGE, World, instant
from tests.support.killed import kill_at

OTHER = ADVANCE | {"key": "support", "amount": "20"}
SAVE_POINTS = ("statements_written", "before_commit", "committed")


def consolidate(world: World, subscription: BilledSubscription) -> None:
    world.rows(
        "UPDATE customers SET invoicing = 'consolidated' WHERE id = %(id)s RETURNING 1", id=subscription.customer_id
    )


def pair(world: World, **terms: Any) -> tuple[BilledSubscription, BilledSubscription]:
    """Two subscriptions of a customer who gets one invoice."""
    one = world.subscribe(ADVANCE, USAGE)
    consolidate(world, one)
    return one, world.subscribe(OTHER, USAGE, beside=one, **terms)


def check(world: World) -> None:
    with world.doors.database.transaction() as connection:
        assert find_broken(connection) == {}


def test_what_is_due_together_stands_on_one_invoice(world: World) -> None:
    one, two = pair(world)
    world.use(one, ("2026-01-10", 1000))
    world.stored_until("2026-02-02")
    assert world.bill(one, now="2026-02-01") == ChunkResult(invoices=2, statements=4)  # the other comes along
    first, second = world.invoices()
    assert [invoice["total_minor"] for invoice in (first, second)] == [69_00, 69_00 + 2 * 10_00]
    assert (second["subscription_id"], second["subscription_ids"]) == (None, sorted([one.id, two.id]))
    assert [(line["subscription_id"], line["key"], line["amount_minor"]) for line in second["lines"]] == [
        (one.id, "base", 49_00),
        (one.id, "tokens", 10_00),
        (two.id, "support", 20_00),
        (two.id, "tokens", 10_00),
    ]
    assert [world.invoices(each) == [first, second] for each in (one, two)] == [True, True]
    check(world)


def test_a_parent_gets_one_invoice_for_its_children(world: World) -> None:
    parent, child = world.subscribe(ADVANCE), world.subscribe(OTHER)
    consolidate(world, parent)
    world.rows(
        "UPDATE customers SET parent_id = %(parent)s WHERE id = %(id)s RETURNING 1",
        parent=parent.customer_id,
        id=child.customer_id,
    )
    world.bill(child, parent, now="2026-01-01")
    [invoice] = world.invoices()
    assert (invoice["customer_id"], invoice["total_minor"]) == (parent.customer_id, 69_00)


def test_the_tenants_setting_is_the_default(world: World) -> None:
    one = world.subscribe(ADVANCE)
    two = world.subscribe(OTHER, beside=one)
    world.rows(
        """UPDATE tenants SET settings = settings || '{"invoicing": "consolidated"}' WHERE id = %(id)s RETURNING 1""",
        id=world.tenant_id,
    )
    world.bill(one, two, now="2026-01-01")
    assert len(world.invoices()) == 1
    world.rows("UPDATE customers SET invoicing = 'per_subscription' WHERE id = %(id)s RETURNING 1", id=one.customer_id)
    world.stored_until("2026-03-02")
    world.bill(one, two, now="2026-02-01")
    assert [invoice["subscription_id"] for invoice in world.invoices()[1:]] == [one.id, two.id]


def test_taxes_and_discounts_are_those_of_each_subscription_alone(world: World) -> None:
    cents = {"key": "base", "type": "fixed", "model": "flat", "amount": "0.05"}
    percent = [{"percent": "50", "duration": "once"}]
    one = world.subscribe(cents)
    consolidate(world, one)
    two = world.subscribe(cents | {"amount": "1.05"}, beside=one, discounts=percent)
    world.rows(
        "WITH rate AS (INSERT INTO tax_rates (id, tenant_id, key, name, percent, inclusive, created_at)"
        " VALUES ('txr_' || %(customer)s, %(tenant)s, 'vat', 'VAT', 10, false, now()) RETURNING id)"
        " UPDATE customers SET tax_rate_ids = ARRAY[rate.id] FROM rate WHERE customers.id = %(customer)s RETURNING 1",
        customer=one.customer_id,
        tenant=world.tenant_id,
    )
    world.bill(one, two, now="2026-01-01")
    [invoice] = world.invoices()
    # 0.05 → 0.01 tax (0.005 rounded); 1.05 less 0.53 = 0.52 → 0.05 tax. Of the sum, 0.57, it would be 0.06, too.
    assert (invoice["subtotal_minor"], invoice["discount_minor"], invoice["tax_minor"]) == (1_10, 53, 6)
    [tax] = invoice["taxes"]
    assert (Decimal(tax["base"]), Decimal(tax["amount"])) == (Decimal("0.57"), Decimal("0.06"))
    [discount] = invoice["discounts"]
    assert (discount["subscription"], discount["taken"]) == (two.id, "0.53")
    assert world.row(two)["discounts"][0]["applied"] == 1
    check(world)


def test_what_was_missed_goes_instant_by_instant(world: World) -> None:
    _, two = pair(world, start_at="2026-02-01")
    world.stored_until("2026-04-02")
    world.bill(two, now="2026-03-01")
    kinds = [(invoice["period_end"].month, len(invoice["subscription_ids"])) for invoice in world.invoices()]
    assert kinds == [(1, 1), (2, 2), (3, 2)]


def test_all_wait_for_what_is_not_ready_and_nobody_for_what_is_parked(world: World) -> None:
    one, two = pair(world)
    advance = world.subscribe(ADVANCE, beside=one)
    world.bill(one, now="2026-01-01")
    world.stored_until("2026-01-15")
    assert world.bill(advance, now="2026-02-01") == ChunkResult(waiting=3)
    world.rows("UPDATE subscriptions SET parked_reason = 'x' WHERE id = %(id)s RETURNING 1", id=two.id)
    world.stored_until("2026-02-02")
    world.bill(advance, now="2026-02-01")
    world.rows("UPDATE subscriptions SET parked_reason = NULL WHERE id = %(id)s RETURNING 1", id=two.id)
    world.bill(two, now="2026-02-01")
    assert [invoice["subscription_ids"] for invoice in world.invoices()] == [
        [one.id, two.id, advance.id],
        [one.id, advance.id],
        [two.id],
    ]


def test_what_can_not_be_priced_is_parked_and_the_others_are_billed(world: World) -> None:
    one = world.subscribe(ADVANCE)
    consolidate(world, one)
    broken = world.subscribe(USAGE | {"meter": "nobody's"}, beside=one)
    world.stored_until("2026-02-02")
    result = world.bill(one, now="2026-02-01")
    assert (result.invoices, result.parked) == (2, 1)
    assert world.row(broken)["parked_reason"].startswith("subscription.unknown_meter")


def test_threshold_invoices_stay_their_own_and_the_rest_is_billed_together(world: World) -> None:
    one, two = pair(world, invoice_threshold=Decimal(5))
    world.stored_until("2026-02-02")
    world.bill(one, now="2026-01-01")
    world.use(one, ("2026-01-05", 800))
    run_thresholds(world.doors, [two.id], Moment(now=instant("2026-01-10")))
    world.bill(one, now="2026-02-01")
    totals = [(invoice["kind"], invoice["total_minor"]) for invoice in world.invoices()]
    assert totals == [("subscription", 69_00), ("threshold", 8_00), ("subscription", 69_00 + 8_00)]
    check(world)


def test_what_comes_late_is_corrected_on_the_line_of_its_subscription(world: World) -> None:
    one, two = pair(world)
    world.stored_until("2026-04-02")
    world.use(one, ("2026-01-05", 100))
    world.bill(one, now="2026-02-01")
    world.use(one, ("2026-01-06", 200))
    world.bill(one, now="2026-03-01")
    late = [line for line in world.invoices()[-1]["lines"] if "correction" in line["description"]]
    assert [(line["subscription_id"], line["amount_minor"]) for line in late] == [(one.id, 2_00), (two.id, 2_00)]


@pytest.mark.parametrize("point", SAVE_POINTS)
def test_a_worker_killed_anywhere_leaves_one_invoice_of_all(world: World, point: str) -> None:
    one, two = pair(world)
    kill_at(world, f"billing.{point}", BILLS, "2026-01-01", one.id)
    world.bill(two, now="2026-01-01")
    [invoice] = world.invoices()
    assert (invoice["number"], invoice["subscription_ids"]) == ("INV-000001", sorted([one.id, two.id]))


def test_a_statement_can_not_stand_on_two_invoices(world: World) -> None:
    one, _ = pair(world)
    world.bill(one, now="2026-01-01")
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.rows(
            "INSERT INTO invoice_statements SELECT * FROM invoice_statements WHERE subscription_id = %(id)s"
            " RETURNING 1",
            id=one.id,
        )
