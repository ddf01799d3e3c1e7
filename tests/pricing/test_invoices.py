"""Invoices: the order of lines, discounts, taxes and credits, and what always holds of their sums."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.explain import ExplainRow
from pricing.given import invoice_given
from pricing.invoices import AmountLine, InvoiceInput, compute
from schemas.errors import Reject
from schemas.money import currency_exponent
from tests.pricing import strategies

UNIT = {"model": "per_unit", "unit_amount": "1", "type": "usage"}
SUMS = ("subtotal", "discount", "tax", "total", "credits_applied", "amount_due", "customer_credit")


def answer(lines: list[Any], **more: Any) -> dict[str, Any]:
    return invoice_given({"currency": more.pop("currency", "USD"), "lines": lines, **more})


def sums(lines: list[Any], **more: Any) -> dict[str, Decimal]:
    found = answer(lines, **more)
    return {name: Decimal(found[name]) for name in SUMS}


@given(strategies.invoices())
def test_sums_agree_with_each_other_on_every_invoice(body: dict[str, Any]) -> None:
    found = invoice_given(body)
    subtotal, discount, tax, total, applied, due, credit = (Decimal(str(found[name])) for name in SUMS)
    lines: Any = found["lines"]
    assert subtotal == sum(Decimal(line["amount"]) for line in lines)
    assert discount == sum(map(Decimal, found["discounts"]))  # type: ignore[arg-type]
    assert tax == sum(map(Decimal, found["taxes"]))  # type: ignore[arg-type]
    taxes: Any = found["taxes"]
    beside = sum(Decimal(amount) for amount, one in zip(taxes, body["taxes"], strict=True) if not one.get("inclusive"))
    assert total == subtotal - discount + beside
    assert 0 <= discount <= max(subtotal, Decimal(0))
    assert 0 <= applied <= Decimal(body.get("credits", "0"))
    assert due == max(total, Decimal(0)) - applied
    assert due >= 0
    assert credit == max(-total, Decimal(0))
    scale = currency_exponent(body["currency"])
    for name in SUMS:
        assert -Decimal(str(found[name])).as_tuple().exponent == scale


@given(strategies.invoices())
def test_every_line_is_the_sum_of_its_rows_rounded_once(body: dict[str, Any]) -> None:
    found: Any = invoice_given(body)["lines"]
    scale = currency_exponent(body["currency"])
    for line in found:
        exact = sum(Fraction(row["amount"]) for row in line["explain"])
        assert exact == Fraction(line["exact"])
        size = int(abs(exact) * 10**scale + Fraction(1, 2))
        assert Fraction(line["amount"]) == Fraction(-size if exact < 0 else size, 10**scale)


@given(strategies.invoices(), st.randoms())
def test_the_order_of_lines_is_irrelevant_to_every_sum(body: dict[str, Any], random: Any) -> None:
    shuffled = body["lines"][:]
    random.shuffle(shuffled)
    one, two = invoice_given(body), invoice_given(body | {"lines": shuffled})
    assert [one[name] for name in SUMS] == [two[name] for name in SUMS]


@given(strategies.discounts(), strategies.numbers())
def test_discounts_never_take_a_line_below_zero_nor_touch_a_negative_one(discounts: Any, amount: str) -> None:
    (line,) = answer([{"amount": amount, "discounts": discounts}])["lines"]
    whole, left = Decimal(amount), Decimal(line["exact"])
    assert left == whole if whole < 0 else 0 <= left <= whole


def test_line_discounts_work_on_the_unrounded_line() -> None:
    discounted = [{"price": UNIT | {"unit_amount": "0.333"}, "quantity": "10", "discounts": [{"percent": "50"}] * 2}]
    assert answer(discounted)["lines"][0]["exact"] == "0.8325"


def test_each_invoice_discount_is_rounded_before_the_next() -> None:
    found = answer([{"amount": "10.01"}], discounts=[{"percent": "50"}, {"percent": "50"}])
    assert found["discounts"] == ["5.01", "2.50"]


def test_an_inclusive_fixed_tax_leaves_less_for_the_exclusive_one() -> None:
    taxes = [{"amount": "10", "inclusive": True}, {"percent": "10"}]
    assert sums([{"amount": "110"}], taxes=taxes)["total"] == 120


def test_a_fixed_tax_is_due_on_nothing_too() -> None:
    assert sums([], taxes=[{"amount": "3"}])["total"] == 3


def test_a_negative_total_is_credit_and_never_due() -> None:
    found = sums([{"amount": "-15"}], taxes=[{"percent": "10"}], credits="5")
    assert (found["total"], found["amount_due"], found["customer_credit"]) == (Decimal("-16.5"), 0, Decimal("16.5"))


def test_a_commitment_counts_usage_alone_and_leaves_a_negative_cost_alone() -> None:
    lines = [{"price": UNIT, "quantity": "-10"}, {"amount": "500"}]
    assert len(answer(lines, commitment={"amount": "100", "true_up": True})["lines"]) == 2
    assert answer([], commitment={"amount": "100", "true_up": True})["lines"][0]["amount"] == "100.00"


def test_a_price_without_type_is_usage() -> None:
    untyped = {"price": {"model": "per_unit", "unit_amount": "1"}, "quantity": "60"}
    assert sums([untyped], commitment={"amount": "100", "true_up": True})["subtotal"] == 100


CELL_LESS = {"price": {"model": "matrix", "dimensions": []}, "quantity": "1"}


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"lines": {}}, "pricing.invalid_field", "/lines"),
        ({"lines": [{}]}, "pricing.invalid_field", "/lines/0/price"),
        ({"lines": [{"price": UNIT}]}, "pricing.invalid_quantity", "/lines/0/quantity"),
        ({"lines": [{"amount": "1", "price": UNIT}]}, "request.unknown_field", "/lines/0/price"),
        ({"lines": [{"amount": "1"}] * 10_001}, "pricing.invalid_field", "/lines"),
        ({"lines": [{"amount": "1"}, CELL_LESS]}, "pricing.invalid_matrix", "/lines/1/groups/0"),
        ({"credits": "-1"}, "pricing.invalid_decimal", "/credits"),
        ({"discounts": [{}]}, "pricing.invalid_discount", "/discounts/0"),
        ({"discounts": [{"percent": "-1"}]}, "pricing.invalid_decimal", "/discounts/0/percent"),
        ({"taxes": [{"percent": "1", "inclusive": "true"}]}, "pricing.invalid_field", "/taxes/0/inclusive"),
        ({"taxes": [{"inclusive": True}]}, "pricing.invalid_tax", "/taxes/0"),
        ({"currency": "XXX"}, "pricing.invalid_currency", "/currency"),
        ({"currency": None}, "pricing.invalid_currency", "/currency"),
        ({"extra": 1}, "request.unknown_field", "/extra"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_wrong_invoice_is_named_by_code_and_pointer(changes: Any, code: str, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        invoice_given({"currency": "USD", "lines": []} | changes)
    assert (caught.value.code, caught.value.errors[0].pointer) == (code, pointer)


def test_an_invoice_names_its_lines() -> None:
    with pytest.raises(Reject, match="lines is required"):
        invoice_given({"currency": "USD"})


def test_an_amount_line_must_be_what_its_rows_add_up_to() -> None:
    row = ExplainRow("part", None, None, Decimal(2))
    good = compute(InvoiceInput(currency="USD", lines=[AmountLine(amount=Decimal(2), explain=[row])]))
    assert good.lines[0].explain == (row,)
    with pytest.raises(ValueError, match="add up to 2"):
        compute(InvoiceInput(currency="USD", lines=[AmountLine(amount=Decimal(3), explain=[row])]))
