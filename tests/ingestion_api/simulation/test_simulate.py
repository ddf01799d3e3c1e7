"""What customers would have paid under a plan, on their stored usage, beside what they did pay."""

import csv
from contextlib import ExitStack
from typing import Any

import pytest

from ingestion_api.simulation import routes
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import ADVANCE, METER, USAGE, World

SEATS = {"key": "seats", "type": "fixed", "model": "per_unit", "unit_amount": "10"}
TIERS = {
    "key": "tokens",
    "type": "usage",
    "meter": METER,
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.5"}, {"up_to": None, "unit_amount": "0.25", "flat_amount": "1"}],
}
JANUARY = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
QUARTER = {"from": "2026-01-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    return api_of(world, billed, "read")


def simulate(api: Api, *prices: dict[str, Any], **changes: Any) -> Any:
    body = {"plan": {"currency": "USD", "prices": list(prices)}, **QUARTER, **changes}
    return api.post("/v1/pricing/simulate", body, status=200)


def test_a_customers_own_plan_simulated_is_what_they_paid(world: World, api: Api) -> None:
    prices = (ADVANCE, SEATS, TIERS)
    subscription = world.subscribe(*prices, external_id="acme", quantities={"seats": "3"})
    world.use(subscription, ("2026-01-05", 70), ("2026-01-31T23:59:59", 33), ("2026-02-03", 1000), ("2026-04-01", 9))
    world.stored_until("2026-04-20")
    world.bill(subscription, now="2026-04-20")
    answer = simulate(api, *prices)
    [row] = answer["data"]
    # Three months of 49 + 30; tokens: 50 + 1 + 0.75, 50 + 1 + 225, nothing.
    assert (row["customer"], row["simulated"], row["paid"], row["difference"]) == ("acme", "564.75", "564.75", "0.00")
    assert row["lines"] == [
        {"key": "base", "quantity": "3", "amount": "147.00"},
        {"key": "seats", "quantity": "9", "amount": "90.00"},
        {"key": "tokens", "quantity": "1103", "amount": "327.75"},
    ]
    assert answer["total"] == {
        "customers": 1,
        "failed": 0,
        "simulated": "564.75",
        "paid": "564.75",
        "difference": "0.00",
    }
    assert answer["as_of"] == "2026-04-20T00:00:00Z"


def test_another_plan_shows_what_it_would_bring_for_each_customer_and_in_total(world: World, api: Api) -> None:
    for name, tokens in (("one", 100), ("two", 40)):
        subscription = world.subscribe(USAGE, external_id=name)
        world.use(subscription, ("2026-01-10", tokens))
        world.stored_until("2026-02-20")
        world.bill(subscription, now="2026-02-20")
    answer = simulate(api, USAGE | {"unit_amount": "0.02"}, SEATS, **JANUARY)
    sums = {row["customer"]: (row["simulated"], row["paid"], row["difference"]) for row in answer["data"]}
    assert sums == {"one": ("12.00", "1.00", "11.00"), "two": ("10.80", "0.40", "10.40")}
    assert answer["total"]["simulated"] == "22.80"
    assert answer["total"]["difference"] == "21.40"
    [row] = simulate(api, USAGE, customers=["two", "two"], **JANUARY)["data"]
    assert (row["customer"], row["simulated"]) == ("two", "0.40")


def test_what_was_paid_is_of_the_range_after_discounts_and_of_the_plans_currency(world: World, api: Api) -> None:
    subscription = world.subscribe(ADVANCE, USAGE, discounts=[{"percent": "10"}])
    world.use(subscription, ("2026-01-10", 1000), ("2026-02-10", 3000))
    world.stored_until("2026-03-05")
    world.bill(subscription, now="2026-03-05")
    [row] = simulate(api, ADVANCE, USAGE, **JANUARY)["data"]
    # January: 49 in advance and 10 for its tokens, each less a tenth; simulated is the list price.
    assert (row["simulated"], row["paid"]) == ("59.00", "53.10")
    plan = {"currency": "EUR", "prices": [ADVANCE | {"currency": "EUR"}]}
    [row] = simulate(api, plan=plan, **JANUARY)["data"]
    assert (row["paid"], row["paid_in_other_currencies"]) == ("0.00", {"USD": "53.10"})


def test_a_stored_plan_is_named_by_key_and_version(world: World, billed: Api) -> None:
    admin = api_of(world, billed, "admin")
    admin.post("/v1/plans", {"key": "list", "currency": "USD", "prices": [ADVANCE]})
    admin.post("/v1/plans/list/versions", {"prices": [ADVANCE | {"amount": "59"}]})
    world.subscribe(USAGE)
    newest = admin.post("/v1/pricing/simulate", {"plan": "list", **JANUARY}, status=200)
    assert (newest["plan"], newest["plan_version"], newest["total"]["simulated"]) == ("list", 2, "59.00")
    first = admin.post("/v1/pricing/simulate", {"plan": "list", "plan_version": 1, **JANUARY}, status=200)
    assert first["total"]["simulated"] == "49.00"


def test_a_customer_whose_usage_the_plan_can_not_price_is_named_and_holds_up_nobody(world: World, api: Api) -> None:
    for name, tokens in (("fine", 1), ("beyond", 10**30)):
        world.use(world.subscribe(USAGE, external_id=name), ("2026-01-10", tokens))
    answer = simulate(api, USAGE, **JANUARY)
    rows = {row["customer"]: row for row in answer["data"]}
    assert rows["fine"]["simulated"] == "0.01"
    assert rows["beyond"]["simulated"] is None
    assert rows["beyond"]["error"]["code"] == "pricing.amount_too_large"
    assert (answer["total"]["failed"], answer["total"]["simulated"]) == (1, "0.01")


def test_a_table_for_spreadsheets_says_the_same(world: World, api: Api) -> None:
    world.use(world.subscribe(USAGE, external_id='a "quoted", name'), ("2026-01-10", 100))
    body = {"plan": {"currency": "USD", "prices": [USAGE]}, **JANUARY}
    headers = {"accept": "text/csv", "idempotency-key": "csv-1"}
    for _ in range(2):
        response = api.http.post("/v1/pricing/simulate", json=body, headers=headers)
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        head, row, total = csv.reader(response.text.splitlines())
        assert head == ["customer", "customer_id", "currency", "simulated", "paid", "difference", "error"]
        assert (row[0], row[2:]) == ('a "quoted", name', ["USD", "1.00", "0.00", "1.00", ""])
        assert total == ["total", "", "USD", "1.00", "0.00", "1.00", ""]
    assert response.headers["idempotent-replayed"] == "true"


def test_periods_are_counted_in_the_customers_timezone_or_in_the_one_asked_for(world: World, api: Api) -> None:
    name = world.subscribe(USAGE).external_id
    world.rows("UPDATE customers SET timezone = 'America/New_York' WHERE external_id = %(name)s RETURNING 1", name=name)
    # New York's clocks go forward in March: a month from 31 January, 19:00 there, is an hour shorter than in UTC.
    [line] = simulate(api, ADVANCE)["data"][0]["lines"]
    assert line["quantity"] == "4"
    [line] = simulate(api, ADVANCE, timezone="UTC")["data"][0]["lines"]
    assert (line["quantity"], line["amount"]) == ("3", "147.00")


def plan(*prices: object, **fields: object) -> dict[str, Any]:
    return {"plan": {"currency": "USD", "prices": list(prices), **fields}}


@pytest.mark.parametrize(
    ("changes", "status", "code", "pointer"),
    [
        ({"to": QUARTER["from"]}, 422, "pricing.invalid_period", "/to"),
        ({"plan": 5}, 422, "request.invalid_field", "/plan"),
        ({"plan": "nobody"}, 404, "plan.not_found", None),
        ({"plan": {"prices": []}}, 422, "pricing.invalid_field", "/plan/currency"),
        (plan(currency="XXY"), 422, "pricing.invalid_currency", "/plan/currency"),
        (plan(prices={}), 422, "pricing.invalid_field", "/plan/prices"),
        (plan(7), 422, "pricing.invalid_field", "/plan/prices/0"),
        (plan(USAGE | {"unit_amount": "NaN"}), 422, "pricing.invalid_decimal", "/plan/prices/0/unit_amount"),
        (plan(USAGE | {"meter": "none"}), 422, "meter.not_found", "/plan/prices/0/meter"),
        (plan(x=1), 422, "request.unknown_field", "/plan/x"),
        ({"customers": ["nobody"]}, 404, "customer.not_found", None),
        ({"customers": "all"}, 422, "request.invalid_field", "/customers"),
        ({"from": "yesterday"}, 422, "request.invalid_field", "/from"),
        ({"plan_version": 1}, 422, "request.invalid_field", "/plan_version"),
        (
            {"to": "2100-01-01T00:00:00Z", **plan(ADVANCE | {"billing_period": "day"})},
            422,
            "pricing.simulation_too_long",
            "/to",
        ),
    ],
)
def test_what_can_not_be_simulated_is_refused_at_its_field(
    world: World, api: Api, changes: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    world.subscribe(USAGE)
    body = {"plan": {"currency": "USD", "prices": [USAGE]}, **QUARTER, **changes}
    problem = api.post("/v1/pricing/simulate", body, status=status)
    assert problem["code"] == code
    assert [error["pointer"] for error in problem["errors"]] == ([] if pointer is None else [pointer])


def test_other_tenants_customers_are_no_part_of_it(world: World, billed: Api) -> None:
    name = world.subscribe(USAGE, external_id="ours").customer_id
    other = billed.new_tenant()
    body = {"plan": {"currency": "USD", "prices": [ADVANCE]}, **JANUARY}
    assert other.post("/v1/pricing/simulate", body, status=200)["data"] == []
    assert other.post("/v1/pricing/simulate", body | {"customers": [name]}, status=404)["code"] == "customer.not_found"


def test_more_simulations_at_once_than_there_is_room_for_are_told_to_come_again(api: Api) -> None:
    body = {"plan": {"currency": "USD", "prices": [ADVANCE]}, **JANUARY}
    with ExitStack() as others:
        for _ in range(routes.MAX_RUNNING):
            others.enter_context(routes._one_of_few())
        response = api.http.post("/v1/pricing/simulate", json=body)
        assert (response.status_code, response.json()["code"]) == (503, "pricing.simulations_busy")
        assert int(response.headers["retry-after"]) > 0
    assert api.post("/v1/pricing/simulate", body, status=200)["data"] == []
