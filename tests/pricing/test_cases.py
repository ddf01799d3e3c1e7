"""Golden cases: the shared ones where they lie, the project's own, and what is no case at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.cases import ANSWERS, invoice_given, quote_given, run_case
from schemas.errors import Reject
from tests.pricing import strategies

OWN = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
FILES = sorted([*OWN.glob("*.jsonl"), *SHARED.glob("*.jsonl")])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


CASES = [case for path in FILES for case in read(path)]


def case(**changes: Any) -> dict[str, Any]:
    given = {"currency": "USD", "price": {"model": "per_unit", "unit_amount": "2"}, "quantity": "3"}
    return {"id": "x", "kind": "quote", "given": given, "expect": {"exact": "6", "amount": "6.00"}} | changes


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_every_golden_case_has_its_expected_answer(path: Path) -> None:
    failed = [result for result in map(run_case, read(path)) if not result.passed]
    assert failed == []


def test_the_own_cases_cover_every_kind_and_are_enough_to_mean_something() -> None:
    own = [one for path in OWN.glob("*.jsonl") for one in read(path)]
    assert {one["kind"] for one in own} == set(ANSWERS)
    assert len(own) >= 40


def test_a_case_with_the_right_answer_passes_and_tells_what_it_got() -> None:
    result = run_case(case())
    assert (result.id, result.passed, result.actual) == ("x", True, {"exact": "6", "amount": "6.00"})


@pytest.mark.parametrize(
    "wrong",
    [
        case(expect={"exact": "6.01"}),
        case(expect={"exact": "6", "amount": "7"}),
        case(expect={"error": "pricing.invalid"}),
        case(expect={"exact": "6", "error": "pricing.invalid"}),
        case(expect={}),
        case(expect={"exact": None}),
        case(expect={"exact": "NaN"}),
        case(expect={"exact": 6.0}),
        case(expect={"exact": True}),
        case(expect={"total": "6"}),
        case(expect=[]),
        case(kind="surprise"),
        case(kind=["quote"]),
        case(surprise=1),
        case(id=""),
        case(id=None),
        case(given=None),
        case(given={"currency": "USD", "price": {"model": "flat", "amount": "6", "x": "1"}, "quantity": "1"}),
        [],
        None,
    ],
    ids=str,
)
def test_a_wrong_malformed_or_unknown_case_fails_and_never_raises(wrong: Any) -> None:
    assert run_case(wrong).passed is False


def test_an_expected_error_is_met_by_the_code_or_by_one_that_it_begins() -> None:
    broken = case()["given"] | {"price": {"model": "graduated", "tiers": []}}
    assert run_case(case(given=broken, expect={"error": "pricing.invalid_tiers"})).passed
    assert run_case(case(given=broken, expect={"error": "pricing.invalid"})).passed
    assert not run_case(case(given=broken, expect={"error": "pricing.invalid_model"})).passed
    assert not run_case(case(given=broken, expect={"error": ""})).passed


def test_instants_compare_as_instants_whatever_offset_they_are_written_with() -> None:
    given = {"anchor": "2026-01-01T00:00:00Z", "timezone": "UTC", "billing_period": "day", "count": "1"}
    periods = [["2026-01-01T05:00:00+05:00", "2026-01-02T00:00:00.000Z"]]
    assert run_case(case(kind="periods", given=given, expect={"periods": periods})).passed
    assert not run_case(case(kind="periods", given=given, expect={"periods": []})).passed


def test_the_answer_to_a_quote_is_exact_rounded_and_explained() -> None:
    assert quote_given(case()["given"]) == {
        "currency": "USD",
        "exact": "6",
        "amount": "6.00",
        "explain": [{"what": "unit amount", "quantity": "3", "unit_amount": "2", "amount": "6"}],
    }


def test_the_answer_to_an_invoice_has_every_sum_and_what_each_discount_and_tax_came_to() -> None:
    answer = invoice_given(
        {
            "currency": "USD",
            "lines": [{"amount": "10"}],
            "discounts": [{"percent": "10"}],
            "taxes": [{"percent": "20"}],
            "credits": "3",
        }
    )
    lines = answer.pop("lines")
    assert lines == [
        {
            "type": "fixed",
            "exact": "10",
            "amount": "10.00",
            "explain": [{"what": "amount", "quantity": None, "unit_amount": None, "amount": "10"}],
        }
    ]
    assert answer == {
        "currency": "USD",
        "subtotal": "10.00",
        "discount": "1.00",
        "tax": "1.80",
        "total": "10.80",
        "credits_applied": "3.00",
        "amount_due": "7.80",
        "customer_credit": "0.00",
        "discounts": ["1.00"],
        "taxes": ["1.80"],
    }


def outcome(kind: str, body: Any) -> dict[str, object] | Reject:
    try:
        return ANSWERS[kind](body)
    except Reject as reject:
        return reject


def answered_or_rejected(kind: str, body: Any) -> None:
    """Any JSON gives an answer that JSON can hold, or a Reject that names a field with a code of ours."""
    found = outcome(kind, body)
    if not isinstance(found, Reject):
        json.dumps(found).encode()
        return
    assert found.code.startswith("pricing.invalid_") or found.code == "request.unknown_field"
    (error,) = found.errors
    assert error.pointer == "" or error.pointer.startswith("/")
    (found.detail + error.pointer).encode()


@settings(max_examples=3 * settings.default.max_examples)
@given(st.sampled_from(sorted(ANSWERS)), strategies.JSON)
def test_any_json_at_all_is_answered_or_rejected(kind: str, body: Any) -> None:
    answered_or_rejected(kind, body)


@settings(max_examples=6 * settings.default.max_examples)
@given(st.sampled_from(CASES), st.data())
def test_any_damage_to_a_good_case_is_answered_or_rejected(one: dict[str, Any], data: st.DataObject) -> None:
    answered_or_rejected(one["kind"], data.draw(strategies.damaged(one["given"])))


@settings(max_examples=2 * settings.default.max_examples)
@given(strategies.JSON, st.data())
def test_no_json_makes_the_runner_raise(body: Any, data: st.DataObject) -> None:
    run_case(body)
    run_case(data.draw(strategies.damaged(case())))


def test_deeply_nested_bodies_are_rejected_like_any_other() -> None:
    deep: Any = "1"
    for _ in range(100_000):
        deep = [deep]
    for body in (deep, {"currency": deep}, {"currency": "USD", "price": {"model": deep}, "quantity": deep}):
        with pytest.raises(Reject):
            quote_given(body)


@given(strategies.quotes())
def test_the_same_quote_gives_the_same_bytes(body: dict[str, Any]) -> None:
    assert json.dumps(quote_given(body)) == json.dumps(quote_given(json.loads(json.dumps(body))))


@given(strategies.invoices())
def test_the_same_invoice_gives_the_same_bytes(body: dict[str, Any]) -> None:
    assert json.dumps(invoice_given(body)) == json.dumps(invoice_given(json.loads(json.dumps(body))))
