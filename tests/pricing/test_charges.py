"""Reading prices: every wrong field is named, and what is read is written back the same."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.charges import PlanPrice, PriceType, Timing, parse_plan_price, parse_price, serialize
from pricing.models import Flat
from pricing.periods import BillingPeriod
from schemas.errors import Reject
from tests.pricing import strategies

UNIT = {"model": "per_unit", "unit_amount": "1"}
FIXED = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
METERED = {"key": "tokens", "type": "usage", "meter": "tokens", **UNIT}


def graduated(*tiers: Any) -> dict[str, Any]:
    return {"model": "graduated", "tiers": list(tiers)}


OPEN = {"up_to": None, "unit_amount": "1"}
MATRIX = {"model": "matrix", "dimensions": ["r"], "cells": []}
MANY = [{"up_to": str(n + 1)} for n in range(10_000)]


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (None, "invalid_field", ""),
        ([], "invalid_field", ""),
        ("flat", "invalid_field", ""),
        ({}, "invalid_field", "/model"),
        ({"model": "surge"}, "invalid_model", "/model"),
        ({"model": ["flat"]}, "invalid_model", "/model"),
        ({"model": "flat"}, "invalid_field", "/amount"),
        ({"model": "flat", "amount": None}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": True}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": 1.5}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": 10**400}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": "NaN"}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": "1e400"}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": "1" * 200}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": "1" * 39}, "invalid_decimal", "/amount"),
        ({"model": "flat", "amount": "0.0000000000001"}, "invalid_decimal", "/amount"),
        ({"model": "package", "package_size": "0", "package_amount": "1"}, "invalid_decimal", "/package_size"),
        ({"model": "package", "package_size": "-1", "package_amount": "1"}, "invalid_decimal", "/package_size"),
        ({"model": "package", "package_size": "1"}, "invalid_field", "/package_amount"),
        ({"model": "graduated"}, "invalid_tiers", "/tiers"),
        (graduated(), "invalid_tiers", "/tiers"),
        ({"model": "graduated", "tiers": {}}, "invalid_tiers", "/tiers"),
        (graduated({"up_to": "1"}), "invalid_tiers", "/tiers/0/up_to"),
        (graduated({"up_to": None}, OPEN), "invalid_tiers", "/tiers/0/up_to"),
        (graduated({}), "invalid_tiers", "/tiers/0/up_to"),
        (graduated(None), "invalid_tiers", "/tiers/0"),
        (graduated({"up_to": "2"}, {"up_to": "2.0"}, OPEN), "invalid_tiers", "/tiers/1/up_to"),
        (graduated({"up_to": "0"}, OPEN), "invalid_tiers", "/tiers/0/up_to"),
        (graduated({"up_to": "-1"}, OPEN), "invalid_tiers", "/tiers/0/up_to"),
        (graduated({"up_to": "x"}, OPEN), "invalid_tiers", "/tiers/0/up_to"),
        (graduated({"up_to": None, "unit_amount": "x"}), "invalid_tiers", "/tiers/0/unit_amount"),
        (graduated(*MANY, OPEN), "invalid_tiers", "/tiers"),
        ({"model": "stairstep", "tiers": [{"up_to": None}]}, "invalid_tiers", "/tiers/0/amount"),
        ({"model": "graduated_percentage", "tiers": [{"up_to": None}]}, "invalid_tiers", "/tiers/0/rate"),
        (graduated(OPEN) | {"zero_quantity": "charge"}, "invalid_field", "/zero_quantity"),
        ({"model": "percentage", "rate": "1", "free_transactions": "1.5"}, "invalid_decimal", "/free_transactions"),
        ({"model": "percentage", "rate": "1", "free_amount": "-1"}, "invalid_decimal", "/free_amount"),
        (
            {"model": "percentage", "rate": "1", "transaction_minimum": "3", "transaction_maximum": "2"},
            "invalid_field",
            "/transaction_maximum",
        ),
        (MATRIX | {"included_quantity": "0"}, "invalid_matrix", "/included_quantity"),
        (MATRIX | {"unit_conversion": {"divide_by": "1"}}, "invalid_matrix", "/unit_conversion"),
        (MATRIX | {"dimensions": ["r", "r"]}, "invalid_matrix", "/dimensions"),
        (MATRIX | {"dimensions": [None]}, "invalid_matrix", "/dimensions/0"),
        (MATRIX | {"cells": [{"match": {"s/t": "1"}, "unit_amount": "1"}]}, "invalid_matrix", "/cells/0/match/s~1t"),
        (MATRIX | {"cells": [{"match": {"r": None}, "unit_amount": "1"}]}, "invalid_matrix", "/cells/0/match/r"),
        (MATRIX | {"cells": [{"match": {"r": "a"}}]}, "invalid_field", "/cells/0/unit_amount"),
        (UNIT | {"unit_conversion": {"divide_by": "0"}}, "invalid_decimal", "/unit_conversion/divide_by"),
        (UNIT | {"unit_conversion": {"divide_by": "-1"}}, "invalid_decimal", "/unit_conversion/divide_by"),
        (UNIT | {"unit_conversion": {}}, "invalid_field", "/unit_conversion/divide_by"),
        (
            UNIT | {"unit_conversion": {"divide_by": "1", "precision": 13}},
            "invalid_decimal",
            "/unit_conversion/precision",
        ),
        (
            UNIT | {"unit_conversion": {"divide_by": "1", "rounding": "even"}},
            "invalid_field",
            "/unit_conversion/rounding",
        ),
        (UNIT | {"included_quantity": "-1"}, "invalid_decimal", "/included_quantity"),
        (UNIT | {"discount_percent": "101"}, "invalid_decimal", "/discount_percent"),
        (UNIT | {"maximum_amount": "-1"}, "invalid_decimal", "/maximum_amount"),
        (UNIT | {"minimum_amount": None}, "invalid_decimal", "/minimum_amount"),
        (
            UNIT | {"commitment": {"amount": "1", "overage_factor": "0.99"}},
            "invalid_decimal",
            "/commitment/overage_factor",
        ),
        (UNIT | {"commitment": {"amount": "1", "true_up": "true"}}, "invalid_field", "/commitment/true_up"),
        (UNIT | {"custom_unit": {"conversion_rate": "1"}}, "invalid_field", "/custom_unit/code"),
        (
            UNIT | {"custom_unit": {"code": "credits", "conversion_rate": "0"}},
            "invalid_decimal",
            "/custom_unit/conversion_rate",
        ),
        (UNIT | {"bucket": "day"}, "invalid_field", "/bucket_aggregation"),
        (UNIT | {"bucket_aggregation": "max"}, "invalid_field", "/bucket"),
        (UNIT | {"type": "fixed", "bucket": "day", "bucket_aggregation": "max"}, "invalid_field", "/bucket"),
        (UNIT | {"type": "metered"}, "invalid_field", "/type"),
        (UNIT | {"timing": "advance"}, "invalid_field", "/timing"),
        (UNIT | {"prorate": True}, "invalid_field", "/prorate"),
        (UNIT | {"type": "fixed", "meter": "m"}, "invalid_field", "/meter"),
        (UNIT | {"billing_period": "fortnight"}, "invalid_field", "/billing_period"),
        (UNIT | {"billing_period_count": "0"}, "invalid_decimal", "/billing_period_count"),
        (UNIT | {"currency": "ZZZ"}, "invalid_currency", "/currency"),
        (UNIT | {"currency": "EUR"}, "invalid_currency", "/currency"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict | list) else str(value),
)
def test_a_wrong_field_is_named_by_code_and_pointer(body: Any, code: str, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        parse_price(body, "/prices/3", currency="USD")
    assert caught.value.code == f"pricing.{code}"
    assert caught.value.errors[0].pointer == f"/prices/3{pointer}"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (UNIT | {"unit_amout": "2"}, "/unit_amout"),
        (UNIT | {"tiers": [OPEN]}, "/tiers"),
        (graduated(OPEN | {"amount": "1"}), "/tiers/0/amount"),
        (UNIT | {"commitment": {"amount": "1", "overage": "2"}}, "/commitment/overage"),
        (UNIT | {"zero_quantity": "free"}, "/zero_quantity"),
    ],
)
def test_a_field_that_no_rule_knows_is_refused(body: Any, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        parse_price(body)
    assert (caught.value.code, caught.value.errors[0].pointer) == ("request.unknown_field", pointer)


def test_counts_and_amounts_may_be_whole_numbers() -> None:
    assert parse_price({"model": "flat", "amount": 5}).model == Flat(amount=Decimal(5))


def test_a_plan_price_has_terms_with_defaults() -> None:
    fixed = parse_plan_price(FIXED, currency="USD")
    assert (fixed.key, fixed.meter, fixed.currency, fixed.timing, fixed.prorate) == (
        "base", None, "USD", Timing.ADVANCE, True,
    )  # fmt: skip
    assert (fixed.billing_period, fixed.billing_period_count) == (BillingPeriod.MONTH, 1)
    usage = parse_plan_price(METERED, currency="USD")
    assert (usage.price.type, usage.meter, usage.timing, usage.prorate) == (
        PriceType.USAGE, "tokens", Timing.ARREARS, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({name: value for name, value in FIXED.items() if name != "key"}, "/key"),
        ({name: value for name, value in FIXED.items() if name != "type"}, "/type"),
        ({name: value for name, value in METERED.items() if name != "meter"}, "/meter"),
        (FIXED | {"key": ""}, "/key"),
        (FIXED | {"key": "x" * 201}, "/key"),
        (FIXED | {"key": 7}, "/key"),
        (FIXED | {"currency": "EUR"}, "/currency"),
    ],
)
def test_a_plan_price_needs_its_terms(body: Any, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        parse_plan_price(body, currency="USD")
    assert caught.value.errors[0].pointer == pointer


@given(strategies.price_bodies())
def test_a_price_read_written_and_read_again_is_the_same(body: dict[str, Any]) -> None:
    price = parse_price(body)
    written = serialize(price)
    assert parse_price(json.loads(json.dumps(written))) == price
    assert serialize(parse_price(written)) == written


@given(
    strategies.price_bodies(),
    st.fixed_dictionaries(
        {"key": st.just("k"), "type": st.just("usage"), "meter": st.just("m")},
        optional={
            "billing_period": st.sampled_from(["day", "week", "month", "quarter", "half_year", "year", "once"]),
            "billing_period_count": st.integers(1, 1000),
            "timing": st.just("arrears"),
            "currency": st.just("USD"),
        },
    ),
)
def test_a_plan_price_read_written_and_read_again_is_the_same(body: dict[str, Any], terms: dict[str, Any]) -> None:
    price = parse_plan_price(body | terms, currency="USD")
    assert isinstance(price, PlanPrice)
    assert parse_plan_price(serialize(price), currency="USD") == price
