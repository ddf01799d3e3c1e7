"""The oracle itself, against answers worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.billing_oracle.life import Change, Life, Prices
from tests.billing_oracle.money import (
    Commitment,
    Discount,
    Grant,
    Tax,
    Totals,
    Wallet,
    committed,
    cost,
    part,
    rounded,
    totals,
)
from tests.billing_oracle.periods import Grid
from tests.billing_oracle.statements import Agreed, Biller

START = datetime(2026, 1, 15, tzinfo=UTC)
FEE = {"type": "fixed", "billing_period": "month", "timing": "advance"}
CALLS = {"key": "calls", "type": "usage", "billing_period": "month", "model": "per_unit", "unit_amount": "0.5"}


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fee(amount: str, **more: str) -> Agreed:
    return Agreed({**FEE, "model": "per_unit", "unit_amount": amount, **more}, Decimal(1))


def life(prices: Prices, events: list[tuple[datetime, str]] | None = None) -> Life:
    def usage(start: datetime, end: datetime) -> Decimal:
        return sum((Decimal(value) for at, value in events or [] if start <= at < end), Decimal(0))

    return Life(Biller("USD", usage), "UTC", START, START, False, prices, now=START)


def bills(of: Life) -> list[tuple[str, dict[str, list[str]]]]:
    found: list[tuple[str, dict[str, list[str]]]] = []
    for invoice in of.biller.invoices:
        lines: dict[str, list[str]] = {}
        for line in invoice.lines:
            lines.setdefault(line.key, []).append(str(line.amount))
        found.append((f"{invoice.at:%m-%d}", lines))
    return found


def test_an_upgrade_is_credited_and_charged_for_the_days_that_are_left() -> None:
    kept = life({"base": fee("20")})
    kept.advance(day("2026-01-25"))
    prices = {"base": fee("50"), "support": fee("31"), "setup": fee("100", billing_period="once")}
    kept.change(Change(day("2026-01-25"), prices, invoice_now=True))
    kept.advance(day("2026-02-15"))
    # 21 of 31 days: 20 x 21/31 = 13.548, 50 x 21/31 = 33.871, 31 x 21/31 = 21.
    upgrade = {"base": ["-13.55", "33.87"], "support": ["21.00"], "setup": ["100.00"]}
    assert bills(kept) == [
        ("01-15", {"base": ["20.00"]}),
        ("01-25", upgrade),
        ("02-15", {"base": ["50.00"], "support": ["31.00"]}),
    ]


def test_without_proration_the_old_fee_runs_to_the_end_of_its_period() -> None:
    kept = life({"base": fee("20"), "late": fee("10", timing="arrears")})
    kept.advance(day("2026-01-25"))
    kept.change(Change(day("2026-01-25"), {"base": fee("50")}, prorate=False))
    kept.advance(day("2026-03-15"))
    assert bills(kept) == [
        ("01-15", {"base": ["20.00"]}),
        ("02-15", {"late": ["10.00"], "base": ["50.00"]}),
        ("03-15", {"base": ["50.00"]}),
    ]


def test_usage_is_cut_by_a_pause_and_late_usage_is_the_difference() -> None:
    events = [(day("2026-01-20"), "10"), (day("2026-01-30"), "100"), (day("2026-02-20"), "4")]
    prices = {"base": fee("31"), "calls": Agreed(CALLS, None)}
    kept = life(prices, events)
    kept.advance(day("2026-01-25"))
    kept.change(Change(day("2026-01-25"), {}))
    kept.advance(day("2026-02-01"))
    kept.change(Change(day("2026-02-01"), prices))
    kept.advance(day("2026-02-15"))
    events.append((day("2026-01-21"), "2"))
    kept.advance(day("2026-03-15"))
    # 21 days are given back, and the 14 after the pause are charged.
    assert bills(kept) == [
        ("01-15", {"base": ["31.00"]}),
        ("02-15", {"base": ["-21.00", "14.00", "31.00"], "calls": ["5.00"]}),
        ("03-15", {"calls": ["1.00", "2.00"], "base": ["31.00"]}),
    ]


def test_a_cancellation_bills_usage_and_gives_back_what_is_not_used() -> None:
    kept = life({"base": fee("31"), "calls": Agreed(CALLS, None)}, [(day("2026-01-20"), "3")])
    kept.advance(day("2026-01-25"))
    kept.cancel(day("2026-01-25"), prorate=True)
    kept.advance(day("2026-06-01"))
    assert bills(kept) == [("01-15", {"base": ["31.00"]}), ("01-25", {"calls": ["1.50"], "base": ["-21.00"]})]
    assert kept.biller.wallet.balance(day("2026-02-01")) == Decimal("19.50")


def test_usage_after_the_end_is_billed_at_the_looks_that_become_rarer() -> None:
    events = [(day("2026-01-20"), "3")]
    kept = life({"calls": Agreed(CALLS, None)}, events)
    kept.advance(day("2026-01-25"))
    kept.cancel(day("2026-01-25"), prorate=True)
    kept.biller.discounts = [Discount(None, Decimal(1), None), Discount(Decimal(50), None, None)]
    kept.advance(day("2026-01-27"))  # looks at the 26th and the 27th; then at the 29th
    events.append((day("2026-01-21"), "4"))
    kept.advance(day("2026-01-30"))
    events.append((day("2026-01-22"), "-7"))
    kept.advance(day("2027-03-01"))  # 400 days after the end
    events.append((day("2026-01-22"), "1"))
    kept.advance(day("2028-01-01"))
    assert bills(kept) == [
        ("01-25", {"calls": ["1.50"]}),
        ("01-29", {"calls": ["2.00"]}),
        ("02-02", {"calls": ["-3.50"]}),
    ]
    assert [invoice.totals.total for invoice in kept.biller.invoices] == [Decimal("1.50"), 1, Decimal("-3.50")]


def test_a_threshold_bills_running_usage_and_the_period_the_rest() -> None:
    events = [(day("2026-01-17"), "30"), (day("2026-01-18"), "20"), (day("2026-02-01"), "7")]
    kept = life({"base": fee("31", billing_period="week"), "calls": Agreed(CALLS, None)}, events)
    kept.threshold, kept.commitment = Decimal(20), Commitment(Decimal(100), true_up=True)
    kept.advance(day("2026-01-20"))  # looks at the 15th, 16th, and so on
    kept.biller.void(kept.biller.invoices[1], day("2026-01-20"))
    kept.advance(day("2026-02-15"))
    assert bills(kept) == [
        ("01-15", {"base": ["31.00"]}),
        ("01-19", {"calls": ["25.00"]}),
        *((at, {"base": ["31.00"]}) for at in ("01-22", "01-29", "02-05", "02-12")),
        ("02-15", {"calls": ["3.50"], "commitment": ["71.50"]}),
    ]


def test_a_commitment_of_a_quarter_is_held_against_all_usage_billed_in_it() -> None:
    events = [(day("2026-01-20"), "30"), (day("2026-02-20"), "20"), (day("2026-03-20"), "7")]
    kept = life({"calls": Agreed(CALLS, None)}, events)
    kept.commitment = Commitment(Decimal(20), Decimal(3), period="quarter")
    kept.advance(day("2026-04-15"))
    # 28.50 in all: 8.50 above the commitment cost three times as much.
    assert bills(kept)[-1] == ("04-15", {"calls": ["3.50"], "commitment": ["17.00"]})
    assert committed(kept.commitment, Decimal(-5)) == -5


TIERS = [
    {"up_to": "10", "unit_amount": "2", "flat_amount": "5"},
    {"up_to": None, "unit_amount": "1", "flat_amount": "3"},
]


@pytest.mark.parametrize(
    ("body", "quantity", "expected"),
    [
        ({"model": "graduated", "tiers": TIERS}, "15", "33"),
        ({"model": "graduated", "tiers": TIERS}, "0", "5"),
        ({"model": "graduated", "tiers": TIERS}, "-15", "-25"),
        ({"model": "volume", "tiers": TIERS}, "15", "18"),
        ({"model": "package", "package_size": "10", "package_amount": "5"}, "-15", "-10"),
        ({"model": "per_unit", "unit_amount": "2", "included_quantity": "3"}, "2", "0"),
        ({"model": "per_unit", "unit_amount": "2", "minimum_amount": "3"}, "0", "3"),
        ({"model": "per_unit", "unit_amount": "2", "minimum_amount": "3"}, "-1", "-2"),
        ({"model": "per_unit", "unit_amount": "2", "maximum_amount": "30"}, "20", "30"),
    ],
)
def test_models(body: dict[str, Any], quantity: str, expected: str) -> None:
    assert cost(body, Decimal(quantity)) == Decimal(expected)


def test_an_invoice_adds_up_and_parts_add_up_to_the_whole() -> None:
    once = Discount(None, Decimal(30), 1)
    found = totals(
        [Decimal(100), Decimal(50)], [once, Discount(Decimal(10), None, None)], [Tax(Decimal(20), False)], "USD"
    )
    assert found == Totals(Decimal(150), Decimal("42.00"), Decimal("21.60"), Decimal("129.60"))
    assert once.applied == 1
    assert totals([Decimal(119)], [once], [Tax(Decimal(19), True)], "USD").tax == Decimal(19)
    month = (day("2026-06-01"), day("2026-07-01"))
    assert part(Decimal("19.95"), month, (day("2026-06-01"), day("2026-06-02")), "USD") == Decimal("0.67")
    assert rounded(Decimal("-0.5"), "JPY") == -1


def test_grants_burn_in_their_order_and_end() -> None:
    wallet = Wallet()
    for priority, days in ((50, None), (50, 5), (1, 9)):
        wallet.add(Grant(priority, None if days is None else START + timedelta(days=days), START, Decimal(10)))
    assert sum(amount for _, amount in wallet.pay(Decimal(15), START)) == 15
    assert [wallet.balance(START + timedelta(days=days)) for days in (4, 5)] == [15, 10]


def test_a_void_invoice_gives_back_what_still_fits() -> None:
    wallet = Wallet()
    wallet.add(Grant(1, START + timedelta(days=5), START, Decimal(10)))
    wallet.add(Grant(2, None, START, Decimal(10), Grid(START, "UTC", "week")))
    paid = wallet.pay(Decimal(18), START)
    wallet.give_back(paid, START + timedelta(days=8))
    assert wallet.balance(START + timedelta(days=8)) == 10
    again = wallet.pay(Decimal(4), START + timedelta(days=9))
    wallet.give_back(again, START + timedelta(days=10))
    assert wallet.balance(START + timedelta(days=10)) == 10


def test_periods_keep_the_day_and_the_hour() -> None:
    grid = Grid(day("2026-01-31"), "UTC", "month")
    assert [grid.start(n).day for n in (1, 2, 3)] == [28, 31, 30]
    berlin = Grid(datetime(2026, 2, 28, 1, 30, tzinfo=UTC), "Europe/Berlin", "month")
    assert [berlin.start(n).hour for n in (0, 1, 2)] == [1, 1, 0]
    calendar = Grid(day("2026-05-17"), "UTC", "quarter", by_calendar=True)
    assert calendar.containing(day("2026-05-17")) == (day("2026-04-01"), day("2026-07-01"))
    assert calendar.ending(day("2026-04-01")) == (day("2026-01-01"), day("2026-04-01"))
