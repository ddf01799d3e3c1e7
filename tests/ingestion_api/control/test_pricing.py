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


def tiers(*bounds: str | None) -> dict[str, Any]:
    return {"model": "graduated", "tiers": [{"up_to": bound, "unit_amount": "1"} for bound in bounds]}


UNIT = {"model": "per_unit", "unit_amount": "1"}
PACKAGE = {"model": "package", "package_size": "-1", "package_amount": "1"}
BUCKETED = UNIT | {"bucket": "day", "bucket_aggregation": "sum"}
MATRIX = {"model": "matrix", "dimensions": ["r"], "cells": [{"match": {"r": "a"}, "unit_amount": "1"}]}
GROUPS = [{"group": {"r": "a"}, "quantity": "1"}, {"group": {"r": "b"}, "quantity": "1"}]


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"quantity": "NaN"}, "pricing.invalid_decimal", "/quantity"),
        ({"quantity": "-Infinity"}, "pricing.invalid_decimal", "/quantity"),
        ({"quantity": "1e400"}, "pricing.invalid_decimal", "/quantity"),
        ({"quantity": 10**400}, "pricing.invalid_decimal", "/quantity"),
        ({"quantity": "9" * 200}, "pricing.invalid_decimal", "/quantity"),
        ({"quantity": 0.5}, "pricing.invalid_decimal", "/quantity"),
        ({"price": UNIT | {"unit_amount": "1e-13"}}, "pricing.invalid_decimal", "/price/unit_amount"),
        ({"price": tiers("20", "10", None)}, "pricing.invalid_tiers", "/price/tiers/1/up_to"),
        ({"price": tiers("10", "10", None)}, "pricing.invalid_tiers", "/price/tiers/1/up_to"),
        ({"price": tiers("10")}, "pricing.invalid_tiers", "/price/tiers/0/up_to"),
        ({"price": tiers(None, None)}, "pricing.invalid_tiers", "/price/tiers/0/up_to"),
        ({"price": tiers(*map(str, range(1, 10_001)), None)}, "pricing.invalid_tiers", "/price/tiers"),
        ({"price": PACKAGE, "quantity": "1"}, "pricing.invalid_decimal", "/price/package_size"),
        ({"currency": "ZZZ"}, "pricing.invalid_currency", "/currency"),
        ({"currency": "usd"}, "pricing.invalid_currency", "/currency"),
        ({"price": MATRIX, "quantity": None, "groups": GROUPS}, "pricing.invalid_matrix", "/groups/1"),
        ({"price": BUCKETED, "quantity": None, "buckets": ["1", "NaN"]}, "pricing.invalid_decimal", "/buckets/1"),
        ({"price": UNIT, "transactions": ["1"]}, "pricing.invalid_quantity", "/transactions"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_hostile_numbers_and_prices_are_422_at_their_field(
    api: Api, changes: dict[str, Any], code: str, pointer: str
) -> None:
    body = {"currency": "USD", "price": UNIT, "quantity": "1", **changes}
    problem = api.post(
        "/v1/pricing/quote", {name: value for name, value in body.items() if value is not None}, status=422
    )
    assert (problem["code"], [error["pointer"] for error in problem["errors"]]) == (code, [pointer])
