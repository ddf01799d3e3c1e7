"""Rating: the rules of each model and modifier, checked against an independent reckoning in fractions."""

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.charges import Price, parse_price
from pricing.fields import Fields
from pricing.given import quote_given
from pricing.matrix import Group
from pricing.rating import quote
from pricing.usage import read_usage
from schemas.errors import Reject
from tests.pricing import strategies

TIERS = [
    {"up_to": "10", "unit_amount": "2", "flat_amount": "5"},
    {"up_to": "20", "unit_amount": "1", "flat_amount": "3"},
    {"up_to": None, "unit_amount": "0.5", "flat_amount": "1"},
]


def price(**body: Any) -> Price:
    return parse_price(body)


def exact(body: dict[str, Any], **usage: Any) -> Decimal:
    currency = usage.pop("currency", "USD")
    return Decimal(quote_given({"currency": currency, "price": body, **usage})["exact"])  # type: ignore[arg-type]


def code_and_pointer(body: dict[str, Any], **usage: Any) -> tuple[str, str]:
    with pytest.raises(Reject) as caught:
        exact(body, **usage)
    return caught.value.code, caught.value.errors[0].pointer


# An oracle of one function a model, in fractions, written from the rules and from nothing else.


def rational(text: object) -> Fraction:
    return Fraction(str(text))


def reckoned(body: dict[str, Any], quantity: Fraction) -> Fraction:
    if quantity < 0 and body["model"] != "flat":
        flatless = [{**tier, "flat_amount": "0"} for tier in body.get("tiers", [])]
        return -reckoned({**body, "tiers": flatless} if flatless else body, -quantity)
    tiers = body.get("tiers", [])
    if tiers and quantity == 0 and body.get("zero_quantity") == "free":
        return Fraction(0)
    lower = [Fraction(0), *(rational(tier["up_to"]) for tier in tiers[:-1])]
    upper = [*lower[1:], quantity + 1]
    landing = next((i for i in range(len(tiers)) if quantity <= upper[i] or i == len(tiers) - 1), 0)
    match body["model"]:
        case "flat":
            return rational(body["amount"])
        case "per_unit":
            return quantity * rational(body["unit_amount"])
        case "package":
            count = quantity / rational(body["package_size"])
            return (ceil if body["rounding"] == "up" else floor)(count) * rational(body["package_amount"])
        case "dynamic":
            return quantity * rational(body["multiplier"])
        case "volume":
            return quantity * rational(tiers[landing]["unit_amount"]) + rational(tiers[landing]["flat_amount"])
        case "stairstep":
            return rational(tiers[landing]["amount"])
    total = Fraction(0)
    for i, tier in enumerate(tiers):
        if i == 0 or quantity > lower[i]:
            unit = rational(tier["rate"]) / 100 if "rate" in tier else rational(tier["unit_amount"])
            total += (min(quantity, upper[i]) - lower[i]) * unit + rational(tier["flat_amount"])
    return total


def away(number: Fraction, scale: int, how: str) -> Fraction:
    """Rounded to `scale` decimals, symmetrically about zero."""
    size = abs(number) * 10**scale
    whole = {"up": ceil(size), "down": floor(size), "half_up": floor(size + Fraction(1, 2))}[how]
    return Fraction(whole if number > 0 else -whole) / Fraction(10) ** scale


def reckoned_price(body: dict[str, Any], quantities: list[Fraction]) -> Fraction:
    cost = Fraction(0)
    for quantity in quantities:
        conversion = body.get("unit_conversion")
        if conversion:
            quantity /= rational(conversion["divide_by"])
            if conversion["rounding"] != "none":
                quantity = away(quantity, conversion["precision"], conversion["rounding"])
        if quantity > 0:
            quantity = max(Fraction(0), quantity - rational(body.get("included_quantity", 0)))
        cost += reckoned(body, quantity)
    cost *= 1 - rational(body.get("discount_percent", 0)) / 100
    if cost >= 0:
        if "maximum_amount" in body:
            cost = min(cost, rational(body["maximum_amount"]))
        if "minimum_amount" in body:
            cost = max(cost, rational(body["minimum_amount"]))
        if "commitment" in body:
            promised = rational(body["commitment"]["amount"])
            if cost >= promised:
                cost = promised + (cost - promised) * rational(body["commitment"]["overage_factor"])
            elif body["commitment"]["true_up"]:
                cost = promised
    return cost * rational(body.get("custom_unit", {"conversion_rate": 1})["conversion_rate"])


@given(strategies.quotes(strategies.QUANTITY_MODELS))
def test_every_quantity_model_with_every_modifier_costs_what_fractions_say(body: dict[str, Any]) -> None:
    quantities = [rational(text) for text in body.get("buckets", [body.get("quantity")])]
    expected = reckoned_price(body["price"], quantities)
    found = exact(body["price"], **{name: body[name] for name in ("quantity", "buckets") if name in body})
    # A division that does not end is known to 50 digits; everything else must be equal to the last one.
    assert abs(Fraction(found) - expected) <= abs(expected) / 10**45
    if body["price"].get("unit_conversion", {}).get("divide_by") in (None, "1", "10", "1000"):
        assert Fraction(found) == expected


LONG = st.decimals(min_value=-(10**25), max_value=10**25, places=12)


@given(LONG, LONG, st.sampled_from(["0.1", "33.333333333333", "99.999999999999"]))
def test_products_of_long_numbers_lose_no_digit(quantity: Decimal, unit: Decimal, percent: str) -> None:
    found = exact(
        {"model": "per_unit", "unit_amount": str(unit), "discount_percent": percent}, quantity=f"{quantity:f}"
    )
    assert Fraction(found) == Fraction(quantity) * Fraction(unit) * (1 - Fraction(percent) / 100)


@given(strategies.model_bodies(strategies.QUANTITY_MODELS), strategies.amounts(), strategies.amounts())
def test_more_never_costs_less_for_models_whose_unit_prices_do_not_fall(
    body: dict[str, Any], one: str, two: str
) -> None:
    if body["model"] in ("volume", "stairstep"):
        return  # a cheaper tier for all of it may cost less: own-quote-volume-cheaper-past-bound
    low, high = sorted([Decimal(one), Decimal(two)])
    assert exact(body, quantity=str(low)) <= exact(body, quantity=str(high))


@given(strategies.model_bodies(("percentage",)), st.lists(strategies.amounts(), min_size=1, max_size=8))
def test_one_more_transaction_never_costs_less(body: dict[str, Any], amounts: list[str]) -> None:
    assert exact(body, transactions=amounts[:-1]) <= exact(body, transactions=amounts)


@given(strategies.model_bodies(("matrix",)), strategies.amounts(), strategies.amounts())
def test_more_of_a_group_never_costs_less(body: dict[str, Any], one: str, two: str) -> None:
    low, high = sorted([Decimal(one), Decimal(two)])
    costs = [exact(body, groups=[{"group": {"r": "a"}, "quantity": str(quantity)}]) for quantity in (low, high)]
    assert costs[0] <= costs[1]


@given(strategies.tiers({"unit_amount": strategies.amounts()}), st.integers(0, 3))
def test_graduated_has_no_jump_at_a_bound_without_flats(tiers: list[dict[str, Any]], pick: int) -> None:
    if len(tiers) == 1:
        return
    bound = Decimal(tiers[pick % (len(tiers) - 1)]["up_to"])
    step = Decimal("0.000000000001")
    body = {"model": "graduated", "tiers": tiers}
    jump = exact(body, quantity=f"{bound + step:f}") - exact(body, quantity=f"{bound:f}")
    assert 0 <= jump <= step * 1000


@given(strategies.model_bodies(("per_unit", "dynamic")), strategies.numbers(), strategies.numbers())
def test_linear_models_price_a_sum_as_the_sum_of_prices(body: dict[str, Any], one: str, two: str) -> None:
    assert exact(body, quantity=f"{Decimal(one) + Decimal(two):f}") == exact(body, quantity=one) + exact(
        body, quantity=two
    )


@pytest.mark.parametrize(
    ("quantity", "cost"),
    [("0", "5"), ("10", "25"), ("10.1", "28.1"), ("20", "38"), ("21", "39.5"), ("-21", "-30.5")],
)
def test_graduated_charges_flats_of_tiers_entered(quantity: str, cost: str) -> None:
    assert exact({"model": "graduated", "tiers": TIERS}, quantity=quantity) == Decimal(cost)


@pytest.mark.parametrize(("quantity", "cost"), [("0", "5"), ("10", "25"), ("11", "14"), ("40", "21"), ("-40", "-20")])
def test_volume_charges_the_flat_of_the_tier_it_lands_in(quantity: str, cost: str) -> None:
    assert exact({"model": "volume", "tiers": TIERS}, quantity=quantity) == Decimal(cost)


def test_minus_zero_is_zero() -> None:
    answer = quote_given({"currency": "USD", "price": {"model": "per_unit", "unit_amount": "-1"}, "quantity": "-0.0"})
    assert (answer["exact"], answer["amount"]) == ("0", "0.00")


RATE = {"model": "percentage", "rate": "10"}


class TestPercentage:
    def cost(self, transactions: list[str], **more: Any) -> Decimal:
        return exact({**RATE, **more}, transactions=transactions)

    def test_an_allowance_of_zero_is_none(self) -> None:
        assert self.cost(["10"], free_transactions="0", free_amount="0") == 1

    def test_the_amount_that_is_used_up_exactly_ends_the_count_too(self) -> None:
        assert self.cost(["30", "0", "10"], free_amount="30", free_transactions="9", fixed_amount="1") == 3

    def test_the_count_that_is_used_up_ends_the_amount_too(self) -> None:
        assert self.cost(["1", "10"], free_amount="1000", free_transactions="1") == 1

    def test_only_the_part_above_the_free_amount_is_charged(self) -> None:
        assert self.cost(["20", "25"], free_amount="30", fixed_amount="1") == Decimal("2.5")

    def test_a_refund_is_neither_clamped_nor_fixed_nor_counted(self) -> None:
        refund = self.cost(["-50", "10"], free_transactions="1", fixed_amount="2", transaction_minimum="4")
        assert refund == -5

    def test_the_order_of_transactions_matters_with_an_allowance(self) -> None:
        first, second = ["100", "1"], ["1", "100"]
        assert self.cost(first, free_transactions="1") == Decimal("0.1")
        assert self.cost(second, free_transactions="1") == 10

    def test_a_total_is_enough_for_a_rate_alone_and_too_little_for_more(self) -> None:
        groups = [{"group": {}, "quantity": "30"}, {"group": {"a": "b"}, "quantity": "20"}]
        assert exact(RATE, quantity="50") == exact(RATE, groups=groups) == 5
        for more in ({"fixed_amount": "1"}, {"free_amount": "1"}, {"transaction_maximum": "0"}):
            assert code_and_pointer({**RATE, **more}, quantity="50") == (
                "pricing.invalid_quantity",
                "/transactions",
            )

    def test_conversion_applies_to_each_transaction(self) -> None:
        body = {**RATE, "fixed_amount": "1", "unit_conversion": {"divide_by": "100", "rounding": "up"}}
        assert exact(body, transactions=["150", "250"]) == Decimal("2.5")


MATRIX = {
    "model": "matrix",
    "dimensions": ["r", "n"],
    "cells": [
        {"match": {"r": "a", "n": "1"}, "unit_amount": "7"},
        {"match": {"n": "1"}, "unit_amount": "5"},
        {"match": {"r": "a"}, "unit_amount": "3"},
    ],
}


class TestMatrix:
    def cost(self, *groups: tuple[dict[str, Any], str], **more: Any) -> Decimal:
        return exact(MATRIX | more, groups=[{"group": group, "quantity": quantity} for group, quantity in groups])

    def test_the_first_cell_whose_every_pair_is_equal_wins(self) -> None:
        assert self.cost(({"r": "a", "n": "1"}, "1"), ({"r": "b", "n": "1"}, "1"), ({"r": "a"}, "1")) == 15

    def test_properties_that_are_no_dimension_do_not_matter(self) -> None:
        assert self.cost(({"r": "a", "other": "x"}, "2")) == 6

    def test_whole_numbers_and_booleans_are_their_text_and_null_is_missing(self) -> None:
        assert self.cost(({"n": 1, "r": None}, "1")) == 5
        cells = [{"match": {"r": "true"}, "unit_amount": "9"}]
        assert self.cost(({"r": True}, "1"), cells=cells) == 9

    def test_a_group_without_cell_or_default_is_an_error_at_that_group(self) -> None:
        groups = [{"group": {"r": "a"}, "quantity": "1"}, {"group": {"r": "z"}, "quantity": "0"}]
        assert code_and_pointer(MATRIX, groups=groups) == ("pricing.invalid_matrix", "/groups/1")

    def test_one_quantity_is_a_group_without_properties(self) -> None:
        assert exact(MATRIX | {"default_unit_amount": "2"}, quantity="3") == 6
        assert code_and_pointer(MATRIX, quantity="3") == ("pricing.invalid_matrix", "/groups/0")

    def test_buckets_are_groups_without_properties(self) -> None:
        body = MATRIX | {"default_unit_amount": "2", "bucket": "hour", "bucket_aggregation": "max"}
        assert exact(body, buckets=["3", "4"]) == 14

    @given(st.permutations(range(4)))
    def test_the_order_of_groups_is_irrelevant(self, order: list[int]) -> None:
        groups = [({"r": "a"}, "1"), ({"r": "a", "n": "1"}, "2"), ({"n": "1"}, "-3"), ({"r": "a"}, "4")]
        assert self.cost(*(groups[i] for i in order)) == self.cost(*groups) == 3 + 14 - 15 + 12

    @given(strategies.matrix_bodies(), st.dictionaries(st.sampled_from("rst"), st.sampled_from("abc")))
    def test_the_look_up_finds_what_a_plain_search_finds(self, body: dict[str, Any], group: dict[str, str]) -> None:
        matrix = price(model="matrix", **body).model
        plain = next(
            (i for i, cell in enumerate(matrix.cells) if all(group.get(k) == v for k, v in cell.match.items())), None
        )
        assert matrix.find(group) == plain


UNIT = {"model": "per_unit", "unit_amount": "1"}
BUCKETED = UNIT | {"bucket": "day", "bucket_aggregation": "sum"}


class TestUsage:
    @pytest.mark.parametrize(
        ("body", "usage", "pointer"),
        [
            (UNIT, {}, "/quantity"),
            (UNIT, {"buckets": ["1"]}, "/buckets"),
            (UNIT, {"transactions": ["1"]}, "/transactions"),
            (UNIT, {"quantity": "1", "groups": []}, "/groups"),
            (BUCKETED, {"quantity": "1"}, "/buckets"),
            (BUCKETED, {}, "/buckets"),
            ({"model": "matrix", "dimensions": [], "cells": []}, {"transactions": ["1"]}, "/groups"),
            ({"model": "percentage", "rate": "1", "included_quantity": "1"}, {"transactions": ["1"]}, "/transactions"),
        ],
    )
    def test_usage_that_a_price_can_not_take_is_an_error(self, body: Any, usage: Any, pointer: str) -> None:
        assert code_and_pointer(body, **usage) == ("pricing.invalid_quantity", pointer)

    def test_groups_add_up_before_any_other_model(self) -> None:
        body = {"model": "volume", "tiers": TIERS}
        groups = [Group(properties={"a": "b"}, quantity=Decimal(6)), Group(properties={}, quantity=Decimal(6))]
        assert quote(parse_price(body), currency="USD", groups=groups).exact == 15

    def test_amounts_of_money_add_up_before_models_of_money(self) -> None:
        body = {"model": "graduated_percentage", "tiers": [{"up_to": None, "rate": "10"}]}
        assert exact(body, transactions=["10", "5"]) == Decimal("1.5")
        assert exact({"model": "dynamic"}, transactions=["10", "5"]) == 15

    def test_no_group_is_a_quantity_of_zero(self) -> None:
        assert exact({"model": "graduated", "tiers": TIERS}, groups=[]) == 5

    def test_no_bucket_is_nothing_and_a_bucket_of_zero_is_a_quantity_of_zero(self) -> None:
        body = {"model": "graduated", "tiers": TIERS, "bucket": "hour", "bucket_aggregation": "max"}
        assert exact(body, buckets=[]) == 0
        assert exact(body, buckets=["0", "0"]) == 10


class TestModifiers:
    def test_a_discount_scales_a_negative_cost_too(self) -> None:
        assert exact(UNIT | {"discount_percent": "10"}, quantity="-100") == -90

    def test_minimum_and_true_up_lift_a_cost_of_zero(self) -> None:
        assert exact(UNIT | {"minimum_amount": "5"}, quantity="0") == 5
        assert exact(UNIT | {"commitment": {"amount": "5", "true_up": True}}, quantity="0") == 5

    def test_amounts_in_a_custom_unit_become_money_after_every_other_step(self) -> None:
        body = UNIT | {"minimum_amount": "50", "custom_unit": {"code": "credits", "conversion_rate": "0.02"}}
        answer = quote_given({"currency": "USD", "price": body, "quantity": "30"})
        assert (answer["exact"], answer["amount"]) == ("1", "1.00")
        assert answer["explain"] == [
            {"what": "amounts in credits, converted", "quantity": "0.02", "unit_amount": None, "amount": "0"},
            {"what": "unit amount", "quantity": "30", "unit_amount": "0.02", "amount": "0.6"},
            {"what": "up to minimum_amount", "quantity": None, "unit_amount": None, "amount": "0.4"},
        ]

    def test_endless_divisions_show_fifty_digits_and_still_add_up(self) -> None:
        body = UNIT | {"unit_amount": "5", "unit_conversion": {"divide_by": "3"}}
        answer = quote(parse_price(body), currency="USD", quantity=Decimal(10))
        assert answer.exact == Decimal("16." + "6" * 47 + "7")
        assert sum(Fraction(row.amount) for row in answer.explain) == Fraction(answer.exact)

    def test_a_division_that_ends_is_exact_however_long(self) -> None:
        body = UNIT | {"unit_conversion": {"divide_by": str(2**90)}}
        assert Fraction(exact(body, quantity="1")) == Fraction(1, 2**90)

    @pytest.mark.parametrize(
        ("rounding", "precision", "quantity", "converted"),
        [
            ("up", 0, "10.1", "4"), ("down", 0, "10.1", "3"), ("half_up", 0, "10.5", "4"), ("half_up", 0, "10.4", "3"),
            ("up", 0, "-10.1", "-4"), ("down", 0, "-11", "-3"), ("half_up", 0, "-10.5", "-4"),
            ("up", 2, "10", "3.34"), ("half_up", 1, "10", "3.3"), ("down", -1, "99", "30"), ("up", -1, "99", "40"),
            ("up", 0, "9", "3"), ("up", 0, "9.000000000001", "4"),
        ],
    )  # fmt: skip
    def test_conversion_rounds_symmetrically(
        self, rounding: str, precision: int, quantity: str, converted: str
    ) -> None:
        conversion = {"divide_by": "3", "rounding": rounding, "precision": precision}
        assert exact(UNIT | {"unit_conversion": conversion}, quantity=quantity) == Decimal(converted)


@given(strategies.quotes())
def test_rows_add_up_exactly_and_products_are_products(body: dict[str, Any]) -> None:
    usage = read_usage(Fields({name: body[name] for name in body if name not in ("currency", "price")}))
    answer = quote(
        parse_price(body["price"]),
        currency=body["currency"],
        quantity=usage.quantity,
        transactions=usage.transactions,
        groups=usage.groups,
        buckets=usage.buckets,
    )
    assert sum(Fraction(row.amount) for row in answer.explain) == Fraction(answer.exact)
    for row in answer.explain:
        assert row.what
        if row.unit_amount is not None:
            assert row.quantity is not None
            assert Fraction(row.quantity) * Fraction(row.unit_amount) == Fraction(row.amount)


@given(strategies.quotes())
def test_explanations_stay_short_however_much_usage_there_is(body: dict[str, Any]) -> None:
    tiers = len(body["price"].get("tiers", [])) + len(body["price"].get("cells", []))
    explained = quote_given(body)["explain"]
    assert isinstance(explained, list)
    assert len(explained) <= 2 * tiers + 14
