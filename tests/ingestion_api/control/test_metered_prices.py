"""Prices that need more than one number of a meter: by bucket, and by transaction. What is previewed is issued."""

from decimal import Decimal
from typing import Any

import pytest

from infra.clickhouse import transactions
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import METER, USAGE, World

DAILY = {
    "key": "daily", "type": "usage", "meter": METER, "model": "package", "package_size": "10", "package_amount": "1",
    "included_quantity": "5", "bucket": "day", "bucket_aggregation": "sum", "minimum_amount": "2",
}  # fmt: skip
PAYMENTS = {
    "key": "payments", "type": "usage", "meter": METER, "model": "percentage", "rate": "2.9", "fixed_amount": "0.30",
    "free_transactions": 1, "transaction_minimum": "0.50", "transaction_maximum": "4",
}  # fmt: skip


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    return api_of(world, billed, "read")


def line_of(world: World, api: Api, subscription: Any) -> dict[str, Any]:
    """The line of January, as it is previewed and as it is issued then."""
    body = {"subscription": subscription.id, "as_of": "2026-02-01T00:00:00Z"}
    [previewed] = api.post("/v1/invoices/preview", body, status=200)["lines"]
    world.stored_until("2026-02-02")
    assert world.bill(subscription, now="2026-02-02").parked == 0
    [invoice] = api.get("/v1/invoices", subscription=subscription.id, expand="explain")["data"]
    [issued] = invoice["lines"]
    assert {**issued, "id": None} == {**previewed, "id": None}
    assert sum(Decimal(row["amount"]) for row in issued["explain"]) == Decimal(issued["exact"])
    return issued


def test_every_day_of_the_customers_calendar_is_priced_alone(world: World, api: Api) -> None:
    """Two days in New York, of which UTC makes three; the 20th has nothing and costs nothing."""
    subscription = world.subscribe(DAILY, timezone="America/New_York")
    world.use(
        subscription, ("2026-01-10T06:00:00", 9), ("2026-01-11T04:59:59", 9), ("2026-01-11T05:00:00", 4),
        ("2026-01-12T04:00:00", 2), ("2026-02-01T06:00:00", 1000),
    )  # fmt: skip
    line = line_of(world, api, subscription)
    # 18 less 5 are two packages, 6 less 5 are one.
    assert (line["quantity"], line["exact"]) == ("24", "3")
    assert ["buckets of one day each, by sum", "2"] in [[row["what"], row["quantity"]] for row in line["explain"]]


def test_buckets_are_of_the_events_not_of_what_the_meter_makes_of_them(world: World, api: Api) -> None:
    """The meter sums; this price counts the events of each hour and takes tiers anew in every one."""
    tiers = [{"up_to": "2", "unit_amount": "1"}, {"up_to": None, "unit_amount": "0.1"}]
    hourly = {"key": "hourly", "type": "usage", "meter": METER, "model": "graduated", "tiers": tiers,
              "bucket": "hour", "bucket_aggregation": "count"}  # fmt: skip
    subscription = world.subscribe(hourly)
    world.use(subscription, *[(f"2026-01-05T{hour:02}:{minute:02}:30", 50) for hour in (7, 9) for minute in (1, 2, 59)])
    line = line_of(world, api, subscription)
    assert (line["quantity"], line["exact"], line["amount"]) == ("6", "4.2", "4.20")


def test_every_transaction_is_priced_in_the_order_of_its_time(world: World, api: Api) -> None:
    """Stored in another order: the first by its own time is the free one. The refund gives back its rate alone."""
    subscription = world.subscribe(PAYMENTS)
    world.use(subscription, ("2026-01-20", "1000"), ("2026-01-07", "10"), ("2026-01-09", "-100"))
    world.use(subscription, ("2026-01-03", "500"), ("2026-01-08", "100"), ("2026-02-01", "9999"))
    line = line_of(world, api, subscription)
    # 500 free; 10: 0.59; 100: 3.20; the refund: -2.90; 1000: 4 at most.
    assert (line["quantity"], line["exact"], line["amount"]) == ("1510", "4.89", "4.89")


def test_a_preview_before_any_usage_costs_nothing(world: World, api: Api) -> None:
    for price in (DAILY, PAYMENTS):
        subscription = world.subscribe(price)
        body = {"subscription": subscription.id, "as_of": "2026-01-01T00:00:00Z"}
        assert api.post("/v1/invoices/preview", body, status=200)["lines"] == []
        body = {"subscription": subscription.id, "as_of": "2026-01-20T00:00:00Z"}
        [line] = api.post("/v1/invoices/preview", body, status=200)["lines"]
        assert (line["quantity"], line["amount"]) == ("0", "2.00" if price is DAILY else "0.00")


def test_too_many_transactions_park_their_own_account_with_the_reason(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "MAX_TRANSACTIONS", 2)
    busy, calm, plain = world.subscribe(PAYMENTS), world.subscribe(PAYMENTS), world.subscribe(USAGE)
    world.use(busy, *[(f"2026-01-{day:02}", 10) for day in (2, 3, 4)])
    world.use(calm, ("2026-01-02", 10), ("2026-01-03", 10))
    world.use(plain, ("2026-01-02", 10))
    body = {"subscription": busy.id, "as_of": "2026-01-20T00:00:00Z"}
    assert api.post("/v1/invoices/preview", body, status=422)["code"] == "usage.too_many_transactions"
    world.stored_until("2026-02-02")
    assert world.bill(busy, calm, plain, now="2026-02-02").parked == 1
    assert "usage.too_many_transactions" in world.row(busy)["parked_reason"]
    assert [len(world.invoices(each)) for each in (busy, calm, plain)] == [0, 1, 1]


def test_lost_windows_park_an_account_that_is_billed_by_bucket_or_transaction(world: World) -> None:
    lost = [world.subscribe(DAILY), world.subscribe(PAYMENTS)]
    for subscription in lost:
        world.use(subscription, ("2026-01-05", 70), windows=False)
    world.stored_until("2026-02-02")
    assert world.bill(*lost, now="2026-02-02").parked == 2
    assert ["billing.windows_differ" in world.row(each)["parked_reason"] for each in lost] == [True, True]
