from typing import Any

import pytest

from tests.support.api import Api

TIERS = [{"up_to": "1000000", "unit_amount": "0.000002"}, {"up_to": None, "unit_amount": "0.0000015"}]


def test_a_quote_is_exact_and_explains_itself(api: Api) -> None:
    body = {"currency": "USD", "price": {"model": "graduated", "tiers": TIERS}, "quantity": "1200000"}
    quote = api.post("/v1/pricing/quote", body, status=200)
    assert (quote["exact"], quote["amount"]) == ("2.3", "2.30")
    assert quote["explain"]


def test_an_invoice_adds_rounded_lines(api: Api) -> None:
    line = {"price": {"model": "per_unit", "unit_amount": "0.005"}, "quantity": "1"}
    body = {"currency": "USD", "lines": [line, line], "taxes": [{"percent": "20"}]}
    invoice = api.post("/v1/pricing/invoice", body, status=200)
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == ("0.02", "0.00", "0.02")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/currency"),
        ({"currency": "USD", "price": {"model": "none"}}, "/price/model"),
        ({"currency": "USD", "price": {"model": "flat", "amount": "1", "x": 1}}, "/price/x"),
        (
            {"currency": "USD", "price": {"model": "per_unit", "unit_amount": "NaN"}, "quantity": "1"},
            "/price/unit_amount",
        ),
    ],
)
def test_a_bad_quote_is_422_at_its_field(api: Api, body: dict[str, Any], pointer: str) -> None:
    problem = api.post("/v1/pricing/quote", body, status=422)
    assert problem["errors"][0]["pointer"] == pointer


def test_pricing_asks_no_store(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.get("/v1/customers")

    def away(*_arguments: object) -> None:
        raise AssertionError("the store was asked")

    monkeypatch.setattr(type(api.database), "transaction", away)
    body = {"currency": "USD", "price": {"model": "flat", "amount": "1"}}
    assert api.post("/v1/pricing/quote", body, status=200)["amount"] == "1.00"
