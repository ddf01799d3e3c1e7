"""Bill by difference: what comes late to a billed period stands on the next invoice, to the cent, and only once."""

from decimal import Decimal
from typing import Any

from infra.clickhouse.late_usage import find_late
from schemas.billing import Watched
from tests.billing_workflows.test_timeline import change
from tests.support.billing import ADVANCE, USAGE, World, instant

TIERED = {name: value for name, value in USAGE.items() if name != "unit_amount"} | {
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "1"}, {"up_to": None, "unit_amount": "0.5"}],
}


def lines_of(invoice: Any) -> list[tuple[str, str, Decimal, int]]:
    return [
        (line["key"], line["period_start"].strftime("%m-%d"), line["quantity"], line["amount_minor"])
        for line in invoice["lines"]
    ]


def test_late_events_are_billed_by_the_price_of_their_own_period_on_the_next_invoice(world: World) -> None:
    subscription = world.subscribe(TIERED)
    world.use(subscription, ("2026-01-10", 80))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-20", 40), ("2026-02-10", 10))
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-03-02")
    first, second = world.invoices(subscription)
    assert lines_of(first) == [("tokens", "01-01", Decimal(80), 80_00)]
    # 120 cost 100 + 10; 80 were billed
    assert lines_of(second) == [("tokens", "02-01", Decimal(10), 10_00), ("tokens", "01-01", Decimal(40), 30_00)]
    correction = second["lines"][1]
    assert correction["description"] == "Tokens: correction (1 Jan 2026 – 31 Jan 2026)"
    assert sum(Decimal(row["amount"]) for row in correction["explain"]) == correction["exact"] == 30


def test_a_correction_is_made_once_and_a_second_one_sees_the_first(world: World) -> None:
    subscription = world.subscribe(USAGE)
    world.use(subscription, ("2026-01-10", 1000))
    world.stored_until("2026-06-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-11", 100))
    world.bill(subscription, now="2026-03-02")
    world.bill(subscription, now="2026-04-02")
    world.use(subscription, ("2026-01-12", 300))
    world.bill(subscription, now="2026-05-02")
    january = [
        [line["amount_minor"] for line in invoice["lines"] if line["period_start"] == instant("2026-01-01")]
        for invoice in world.invoices(subscription)
    ]
    assert january == [[10_00], [1_00], [], [3_00]]


def test_what_is_taken_back_is_credited(world: World) -> None:
    subscription = world.subscribe(USAGE)
    world.use(subscription, ("2026-01-10", 1000))
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-10", -1000))
    world.bill(subscription, now="2026-03-02")
    assert lines_of(world.invoices(subscription)[-1]) == [
        ("tokens", "02-01", Decimal(0), 0),
        ("tokens", "01-01", Decimal(-1000), -10_00),
    ]


def test_nothing_is_corrected_when_nothing_came_late(world: World) -> None:
    early, other = world.subscribe(ADVANCE, USAGE), world.subscribe(USAGE)
    world.use(early, ("2026-01-10", 1000), ("2026-02-10", 1))
    world.stored_until("2026-03-02")
    world.bill(early, other, now="2026-02-02")
    world.use(other, ("2026-01-10", 5))
    world.bill(early, other, now="2026-03-02")
    assert [len(invoice["lines"]) for invoice in world.invoices(early)] == [1, 2, 2]
    assert [len(invoice["lines"]) for invoice in world.invoices(other)] == [1, 2]


def test_only_batches_beyond_those_that_were_billed_are_late(world: World) -> None:
    subscription = world.subscribe(USAGE)
    world.use(subscription, ("2026-01-10", 1))
    seq = world.next_seq - 1

    def late(seqs: dict[int, int], until: str = "2026-02-01") -> bool:
        watched = Watched(
            subscription_id=subscription.id,
            customer_no=subscription.customer_no,
            meters=(world.meter,),
            until=instant(until),
            seqs=seqs,
        )
        return bool(find_late(world.doors.clickhouse, [watched], [0, 1]))

    assert late({0: seq - 1})
    assert late({1: seq})  # nothing is known of the shard
    assert not late({0: seq})
    assert not late({0: seq - 1}, until="2026-01-10")
    assert not late({0: seq - 1}, until="2028-01-01")  # beyond the horizon


def test_a_yearly_commitment_counts_what_came_late_to_its_year(world: World) -> None:
    commitment = {"amount": "100", "true_up": True, "billing_period": "quarter"}
    subscription = world.subscribe(USAGE, commitment=commitment)
    world.use(subscription, ("2026-01-10", 3000), ("2026-02-10", 1000))
    world.stored_until("2026-04-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-11", 500))
    world.bill(subscription, now="2026-04-02")
    amounts = [[line["amount_minor"] for line in invoice["lines"]] for invoice in world.invoices(subscription)]
    assert amounts == [[30_00], [10_00, 5_00], [0, 55_00]]


def test_what_comes_late_to_a_plan_that_was_left_is_billed_beside_fees_and_at_the_end(world: World) -> None:
    subscription = world.subscribe(USAGE)
    change(world, subscription, "2026-02-01", ADVANCE)
    world.use(subscription, ("2026-01-10", 1000))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-20", 200))
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-03-02")
    world.use(subscription, ("2026-01-21", 300))
    world.cancel(subscription, "2026-03-10")
    world.stored_until("2026-03-11")
    world.bill(subscription, now="2026-03-11")
    assert [lines_of(invoice) for invoice in world.invoices(subscription)] == [
        [("tokens", "01-01", Decimal(1000), 10_00), ("base", "02-01", Decimal(1), 49_00)],
        [("base", "03-01", Decimal(1), 49_00), ("tokens", "01-01", Decimal(200), 2_00)],
        [("tokens", "01-01", Decimal(300), 3_00)],
    ]
