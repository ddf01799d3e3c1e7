"""Billing a chunk on the real stores: what is due becomes exactly one right invoice a period."""

from decimal import Decimal

import pytest

from infra.clickhouse import minutes
from infra.postgres.billing import load_subscriptions
from infra.postgres.billing_steps import save_steps
from pricing.billing import MAX_MINOR
from schemas.billing import BillingStep
from tests.support.billing import ADVANCE, USAGE, World, instant
from tests.support.wallets import add_wallet, fill


def amounts(invoice: dict[str, object]) -> dict[str, int]:
    return {line["key"]: line["amount_minor"] for line in invoice["lines"]}  # type: ignore[index,union-attr]


def test_the_first_invoice_has_the_advance_fee_alone_and_needs_no_usage(world: World) -> None:
    subscription = world.subscribe()
    result = world.bill(subscription, now="2026-01-01T00:00:05")
    assert (result.invoices, result.waiting) == (1, 0)
    [invoice] = world.invoices(subscription)
    assert invoice["number"] == "INV-000001"
    assert invoice["status"] == "open"
    assert amounts(invoice) == {"base": 4900}
    assert invoice["total_minor"] == invoice["amount_due_minor"] == 4900
    row = world.row(subscription)
    assert row["billed_until"] == instant("2026-01-01")
    assert row["next_bill_at"] == instant("2026-02-01")
    assert row["usage_due"]


def test_usage_of_a_period_stands_beside_the_advance_fee_of_the_next(world: World) -> None:
    subscription = world.subscribe()
    world.use(subscription, ("2026-01-01T00:00:00", 100), ("2026-01-31T23:59:59.999999", 50), ("2026-02-01", 7))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    first, second = world.invoices(subscription)
    assert amounts(first) == {"base": 4900}
    assert amounts(second) == {"base": 4900, "tokens": 150}
    usage = next(line for line in second["lines"] if line["key"] == "tokens")
    assert (usage["quantity"], usage["unit_amount"], usage["meter_no"]) == (150, Decimal("0.01"), world.meter.meter_no)
    assert (usage["period_start"], usage["period_end"]) == (instant("2026-01-01"), instant("2026-02-01"))
    assert usage["description"] == "Tokens: 150 × 0.01 USD (1 Jan 2026 – 31 Jan 2026)"
    assert second["as_of"] == instant("2026-02-02")


def test_usage_waits_for_the_watermark_and_the_grace(world: World) -> None:
    subscription = world.subscribe()
    world.stored_until("2026-02-01T00:59:59")
    result = world.bill(subscription, now="2026-02-01T02:00:00")
    assert (result.invoices, result.waiting) == (1, 1)
    assert world.due("2026-02-01T02:00:00") == []
    world.stored_until("2026-02-01T01:00:00")
    assert world.due("2026-02-01T02:00:00") == [subscription.id]
    assert world.bill(subscription, now="2026-02-01T02:00:00").invoices == 1


def test_a_plan_without_usage_does_not_wait(world: World) -> None:
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    assert world.due("2026-02-01") == [subscription.id]
    assert world.bill(subscription, now="2026-02-01").invoices == 1


def test_a_backdated_start_makes_one_invoice_a_missed_period(world: World) -> None:
    subscription = world.subscribe(start_at="2025-11-10")
    world.use(subscription, ("2025-11-20", 10), ("2025-12-20", 20), ("2026-01-20", 30))
    world.stored_until("2026-02-15")
    assert world.bill(subscription, now="2026-02-15").invoices == 4
    invoices = world.invoices(subscription)
    assert [amounts(invoice).get("tokens") for invoice in invoices] == [None, 10, 20, 30]
    assert [invoice["number"] for invoice in invoices] == [f"INV-00000{n}" for n in (1, 2, 3, 4)]
    ends = [invoice["period_end"] for invoice in invoices]
    assert [invoice["period_start"] for invoice in invoices[1:]] == ends[:-1]


def test_a_cancellation_makes_a_closing_invoice_with_usage_only(world: World) -> None:
    subscription = world.subscribe()
    world.use(subscription, ("2026-01-05", 100), ("2026-01-20", 1))
    world.bill(subscription, now="2026-01-01")
    world.cancel(subscription, "2026-01-10")
    world.stored_until("2026-01-10T01:00:00")
    assert world.bill(subscription, now="2026-01-10T01:00:00").invoices == 1
    closing = world.invoices(subscription)[-1]
    assert amounts(closing) == {"tokens": 100}
    assert closing["kind"] == "closing"
    row = world.row(subscription)
    assert (row["status"], row["next_bill_at"], row["canceled_at"]) == ("canceled", None, instant("2026-01-10"))
    assert world.bill(subscription, now="2027-01-01").statements == 0


def test_a_credit_beyond_the_usage_leaves_nothing_due(world: World) -> None:
    subscription = world.subscribe(ADVANCE | {"amount": "31"}, USAGE)
    world.bill(subscription, now="2026-01-01")
    world.cancel(subscription, "2026-01-11", prorate=True)
    world.stored_until("2026-01-12")
    world.bill(subscription, now="2026-01-12")
    closing = world.invoices(subscription)[-1]
    assert amounts(closing) == {"base": -2100, "tokens": 0}
    assert (closing["total_minor"], closing["amount_due_minor"], closing["status"]) == (-2100, 0, "paid")


def test_a_contract_that_ends_is_ended_and_a_period_without_lines_makes_no_invoice(world: World) -> None:
    subscription = world.subscribe(USAGE, end_at=instant("2026-01-20"))
    world.use(subscription, ("2026-01-05", 3))
    world.stored_until("2026-01-21")
    result = world.bill(subscription, now="2026-01-21")
    assert (result.statements, result.invoices) == (2, 1)
    assert world.row(subscription)["status"] == "ended"


@pytest.mark.parametrize("invoicing", [None, "consolidated"])
def test_an_invoice_that_cant_be_saved_parks_its_account_and_the_others_are_billed(
    world: World, invoicing: str | None
) -> None:
    broken, sound = world.subscribe(ADVANCE), world.subscribe(ADVANCE)
    beside = world.subscribe(ADVANCE, beside=broken)
    world.rows(
        "UPDATE customers SET invoicing = %(how)s WHERE id = %(id)s RETURNING 1", how=invoicing, id=broken.customer_id
    )
    world.bill(broken, beside, sound, now="2026-01-01")
    for subscription in (broken, sound):
        world.cancel(subscription, "2026-01-11", prorate=True)
    fill(world, add_wallet(world, broken.customer_id), MAX_MINOR)
    world.stored_until("2026-01-12")
    result = world.bill(broken, sound, now="2026-01-12")
    assert (result.invoices, result.statements, result.parked) == (1, 1, 1)
    assert world.row(broken)["parked_reason"].startswith("wallet.too_much")
    assert world.row(sound)["status"] == "canceled"
    world.stored_until("2026-02-02")
    assert world.bill(beside, now="2026-02-02").invoices == 1


def test_lost_windows_park_their_account_with_the_reason_while_the_run_goes_on(world: World) -> None:
    broken, sound = world.subscribe(), world.subscribe()
    world.use(broken, ("2026-01-05", 5))
    world.use(broken, ("2026-01-06", 9), windows=False)
    world.use(sound, ("2026-01-05", 100))
    world.stored_until("2026-02-02")
    result = world.bill(broken, sound, now="2026-02-02")
    assert (result.invoices, result.parked) == (3, 1)
    reason = world.row(broken)["parked_reason"]
    assert reason.startswith("billing.windows_differ")
    assert "1 events with a sum of 5" in reason
    assert "2 events with a sum of 14" in reason
    assert world.due("2026-02-02") == []
    assert amounts(world.invoices(sound)[-1]) == {"base": 4900, "tokens": 100}
    told = world.rows(
        "SELECT object_id FROM outbox WHERE type = 'subscription.parked' AND tenant_id = %(t)s", t=world.tenant_id
    )
    assert [row["object_id"] for row in told] == [broken.id]


def test_a_price_that_fails_parks_its_account_alone(world: World) -> None:
    matrix = USAGE | {"model": "matrix", "dimensions": ["model"], "cells": []}
    del matrix["unit_amount"]
    broken, sound = world.subscribe(matrix), world.subscribe()
    world.use(broken, ("2026-01-05", 5))
    world.stored_until("2026-02-02")
    result = world.bill(broken, sound, now="2026-02-02")
    assert result.parked == 1
    assert world.row(broken)["parked_reason"].startswith("pricing.invalid_matrix")
    assert len(world.invoices(sound)) == 2


def allow_two_edge_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minutes, "MAX_EDGE_EVENTS", 2)


def test_an_account_that_can_not_be_measured_parks_alone_and_the_others_are_billed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_two_edge_events(monkeypatch)
    start = "2026-01-01T10:00:30"
    crowded, sound = world.subscribe(start_at=start), world.subscribe(start_at=start)
    world.use(crowded, *((f"2026-01-01T10:00:{second}", 1) for second in (31, 32, 33)))
    world.use(sound, (start, 100))
    world.stored_until("2026-02-02")
    result = world.bill(crowded, sound, now="2026-02-02")
    assert (result.invoices, result.parked) == (3, 1)
    assert world.row(crowded)["parked_reason"].startswith("usage.edge_too_large")
    assert world.row(sound)["parked_reason"] is None
    assert amounts(world.invoices(sound)[-1]) == {"base": 4900, "tokens": 100}


def test_accounts_that_are_too_many_together_are_billed_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_two_edge_events(monkeypatch)
    start = "2026-01-01T10:00:30"
    first, second = world.subscribe(USAGE, start_at=start), world.subscribe(USAGE, start_at=start)
    for subscription, tokens in ((first, 10), (second, 200)):
        world.use(subscription, (start, tokens), ("2026-01-01T10:00:31", tokens))
    world.stored_until("2026-02-02")
    assert world.bill(first, second, now="2026-02-02").parked == 0
    assert [amounts(world.invoices(each)[-1]) for each in (first, second)] == [{"tokens": 20}, {"tokens": 400}]


def test_an_unknown_meter_parks_its_account(world: World) -> None:
    broken = world.subscribe(USAGE | {"meter": "gone"})
    world.stored_until("2026-02-02")
    world.bill(broken, now="2026-02-02")
    assert world.row(broken)["parked_reason"].startswith("subscription.unknown_meter")


def test_values_of_every_form_prove_equal(world: World) -> None:
    subscription = world.subscribe(USAGE)
    noise, giant = Decimal("0.30000000000000004"), Decimal("12345678901234567890123.25")
    world.use(subscription, ("2026-01-05", 1), ("2026-01-05T00:00:30", "2.5"), ("2026-01-06", Decimal("1E+3")))
    world.use(subscription, ("2026-01-07", noise), ("2026-01-08", giant), ("2026-01-09", -giant))
    world.stored_until("2026-02-02")
    assert world.bill(subscription, now="2026-02-02").parked == 0
    [line] = world.invoices(subscription)[0]["lines"]
    assert line["quantity"] == Decimal("1003.8")


def test_an_amount_that_no_invoice_can_hold_parks_its_account_alone(world: World) -> None:
    giant, sound = world.subscribe(USAGE), world.subscribe(USAGE)
    world.use(giant, ("2026-01-07", Decimal(12345678901234567890123)))
    world.stored_until("2026-02-02")
    result = world.bill(giant, sound, now="2026-02-02")
    assert (result.invoices, result.parked) == (1, 1)
    assert world.row(giant)["parked_reason"].startswith("pricing.amount_too_large")


def test_edges_inside_a_minute_are_billed_to_the_microsecond(world: World) -> None:
    subscription = world.subscribe(start_at="2026-01-01T10:00:30")
    world.use(
        subscription,
        ("2026-01-01T10:00:29.999999", 1),
        ("2026-01-01T10:00:30", 10),
        ("2026-02-01T10:00:29.999999", 100),
        ("2026-02-01T10:00:30", 1000),
    )
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    assert amounts(world.invoices(subscription)[-1])["tokens"] == 110


def test_what_is_half_stored_is_not_taken_for_a_broken_window(world: World) -> None:
    subscription = world.subscribe()
    world.use(subscription, ("2026-01-05", 5))
    world.use(subscription, ("2026-01-06", 9), windows=False)
    world.rows(
        "INSERT INTO intents (shard, seq, ranges, catalogue_version, state, created_at)"
        " VALUES (0, %(seq)s, '[]', 0, 'pending', now()) RETURNING 1",
        seq=world.next_seq - 1,
    )
    world.stored_until("2026-02-02")
    assert world.bill(subscription, now="2026-02-02").parked == 0


def test_a_subscription_that_changed_meanwhile_is_left_alone(world: World) -> None:
    subscription = world.subscribe()
    with world.doors.database.transaction() as connection:
        [stale] = load_subscriptions(connection, [subscription.id])
    world.cancel(subscription, "2026-01-05")
    step = BillingStep(
        subscription=stale,
        invoice=None,
        billed_until=stale.start_at,
        next_bill_at=None,
        usage_due=False,
        status=None,
        as_of=None,
    )
    with world.doors.database.transaction() as connection:
        assert save_steps(connection, [step], now=stale.start_at).saved == frozenset()
    assert world.row(subscription)["billed_until"] is None


def test_every_invoice_tells_of_itself_once(world: World) -> None:
    subscription = world.subscribe()
    world.bill(subscription, now="2026-01-01")
    world.bill(subscription, now="2026-01-01")
    [event] = world.rows("SELECT type, object_id, data FROM outbox WHERE tenant_id = %(t)s", t=world.tenant_id)
    [invoice] = world.invoices()
    assert (event["type"], event["object_id"]) == ("invoice.finalized", invoice["id"])
    assert event["data"]["total"] == "49.00"


def test_a_subscription_waits_while_its_meter_counts_the_past(world: World) -> None:
    subscription = world.subscribe(USAGE)
    world.use(subscription, ("2026-01-10", 5))
    world.stored_until("2026-02-02")
    with world.doors.database.transaction() as connection:
        connection.execute("UPDATE meters SET is_built = false WHERE no = %s", (world.meter.meter_no,))
    result = world.bill(subscription, now="2026-02-02")
    assert (result.parked, result.waiting) == (0, 1)
    with world.doors.database.transaction() as connection:
        connection.execute("UPDATE meters SET is_built = true WHERE no = %s", (world.meter.meter_no,))
    assert world.bill(subscription, now="2026-02-02").invoices == 1
    assert amounts(world.invoices(subscription)[-1]) == {"tokens": 5}
