"""Prices that change: for one subscription, or for everybody from an instant on."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.billing import price_statement
from pricing.charges import parse_plan_price, serialize
from schemas.errors import Reject
from tests.pricing import strategies
from tests.pricing.subscribed import BASE, USAGE, amounts, at, life, terms_of

JULY, AUGUST = "2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z"


def test_the_price_of_a_line_is_the_one_in_effect_when_its_period_begins() -> None:
    fee = BASE | {"changes": [{"at": "2026-07-15T00:00:00Z", "amount": "62"}]}
    tokens = USAGE | {"changes": [{"at": JULY, "unit_amount": "0.02"}]}
    terms = terms_of(fee, tokens, start=at("2026-06-01"))
    found = [amounts(terms, statement, 100) for statement in life(terms, 4)]
    assert [one["base"] for one in found] == [Decimal(n) for n in (31, 31, 62, 62)]
    assert [one["tokens"] for one in found[1:]] == [1, 2, 2]


def test_an_invoice_line_names_the_price_that_it_was_billed_by() -> None:
    terms = terms_of(BASE | {"changes": [{"at": JULY, "amount": "62"}]}, start=at("2026-06-01"))
    shown = [price_statement(terms, statement, {}).lines[0].price for statement in life(terms, 2)]
    assert [price["amount"] for price in shown] == ["31", "62"]
    assert not any("changes" in price for price in shown)


def test_each_change_builds_on_the_one_before_and_a_model_begins_anew() -> None:
    changes = [
        {"at": JULY, "unit_amount": "0.02"},
        {"at": AUGUST, "included_quantity": None, "discount_percent": "50"},
        {"at": "2026-09-01T00:00:00Z", "model": "flat", "amount": "7"},
    ]
    terms = terms_of(USAGE | {"included_quantity": "50", "changes": changes}, start=at("2026-06-01"))
    found = [amounts(terms, statement, 100)["tokens"] for statement in life(terms, 5)[1:]]
    assert found == [Decimal("0.50"), Decimal("1.00"), Decimal("1.00"), Decimal("7.00")]


def test_what_is_credited_is_what_was_charged_whatever_changed_meanwhile() -> None:
    fee = BASE | {"changes": [{"at": "2026-06-10T00:00:00Z", "amount": "62"}]}
    terms = terms_of(fee, start=at("2026-06-01"), cancel_at=at("2026-06-16"), cancel_proration=True)
    first, closing = (amounts(terms, statement)["base"] for statement in life(terms))
    assert (first, closing) == (Decimal("31.00"), Decimal("-15.50"))


def test_an_override_of_a_field_keeps_the_rest_of_the_price_and_no_later_change_of_it() -> None:
    plan = USAGE | {"included_quantity": "50", "changes": [{"at": JULY, "unit_amount": "9"}]}
    terms = terms_of(plan, start=at("2026-06-01"), price_overrides={"tokens": {"unit_amount": "0.02"}})
    assert [amounts(terms, statement, 100)["tokens"] for statement in life(terms, 3)[1:]] == [1, 1]
    without = terms_of(plan, start=at("2026-06-01"), price_overrides={"tokens": {"included_quantity": None}})
    assert amounts(without, life(without, 2)[1], 100)["tokens"] == 1


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({}, "pricing.invalid_field", "/changes"),
        ([{"unit_amount": "1"}], "pricing.invalid_field", "/changes/0/at"),
        ([{"at": "soon"}], "pricing.invalid_instant", "/changes/0/at"),
        ([{"at": JULY}, {"at": JULY}], "pricing.invalid_field", "/changes/1/at"),
        ([{"at": JULY, "unit_amount": "NaN"}], "pricing.invalid_decimal", "/changes/0/unit_amount"),
        ([{"at": JULY, "unit_amount": None}], "pricing.invalid_field", "/changes/0/unit_amount"),
        ([{"at": JULY, "amount": "1"}], "request.unknown_field", "/changes/0/amount"),
        ([{"at": JULY, "meter": "other"}], "request.unknown_field", "/changes/0/meter"),
        ([{"at": JULY, "type": "fixed"}], "pricing.invalid_field", "/changes/0/type"),
        ([{"at": JULY, "changes": []}], "request.unknown_field", "/changes/0/changes"),
        ([{"at": f"20{n}-01-01T00:00:00Z"} for n in range(10, 99)] * 2, "pricing.invalid_field", "/changes"),
    ],
    ids=str,
)
def test_a_wrong_change_is_named_by_code_and_pointer(changes: Any, code: str, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        parse_plan_price(USAGE | {"changes": changes}, currency="USD")
    assert (caught.value.code, caught.value.errors[0].pointer) == (code, pointer)


@given(strategies.price_bodies(), st.lists(strategies.price_bodies(), max_size=3))
def test_a_price_with_changes_read_written_and_read_again_is_the_same(
    body: dict[str, Any], later: list[dict[str, Any]]
) -> None:
    changes = [{"at": f"2026-0{number + 1}-01T00:00:00Z", **each} for number, each in enumerate(later)]
    terms = {"key": "k", "type": "usage", "meter": "m"}
    price = parse_plan_price({**terms, **body, "changes": changes}, currency="USD")
    assert parse_plan_price(json.loads(json.dumps(serialize(price))), currency="USD") == price
    assert [change.price for change in price.changes] == [
        parse_plan_price({**terms, **each}, currency="USD").price for each in later
    ]
