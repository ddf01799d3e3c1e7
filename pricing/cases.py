"""Golden cases: inputs and right answers, run against the engine. A price book is tested like code with these.

A case is `{"id", "kind", "given", "expect", "source"?, "note"?}`. Numbers compare as decimals, instants as instants,
and only what `expect` names is compared. An unknown kind or field is a failure, never a skip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import cast

from pricing.given import (
    Answer,
    burn_down_given,
    invoice_given,
    periods_given,
    prorate_given,
    quote_given,
)
from schemas.errors import Reject
from schemas.instants import parse_instant

__all__ = ["CaseResult", "invoice_given", "quote_given", "run_case"]

CASE_FIELDS = frozenset({"id", "kind", "given", "expect", "source", "note"})

#: What each kind of case can be answered with, beside `error`.
EXPECTATIONS: Mapping[str, frozenset[str]] = {
    "quote": frozenset({"exact", "amount"}),
    "invoice": frozenset({"subtotal", "discount", "tax", "total", "credits_applied", "amount_due", "lines"}),
    "prorate": frozenset({"amount"}),
    "periods": frozenset({"periods"}),
    "burn_down": frozenset({"balances", "balance", "overage"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """`actual` holds what `expect` names, or `{"error": code, "detail": …}`; a malformed case has an `error` too."""

    id: str
    passed: bool
    expected: object
    actual: object


def run_case(case: object, place: str = "?") -> CaseResult:
    """Run one case. It never raises for what a case says, however wrong that is. `place` names a case without an id."""
    if not isinstance(case, Mapping):
        return malformed(place, None, "a case is an object")
    body = cast("Mapping[str, object]", case)
    case_id, kind, expect = body.get("id"), body.get("kind"), body.get("expect")
    if not isinstance(case_id, str) or not case_id:
        return malformed(place, expect, "a case has an id")
    name = case_id
    if unknown := sorted(str(field) for field in body if field not in CASE_FIELDS):
        return malformed(name, expect, f"unknown field {unknown[0]}")
    if not isinstance(kind, str) or kind not in ANSWERS:
        return malformed(name, expect, f"unknown kind; known are {', '.join(ANSWERS)}")
    if not isinstance(expect, Mapping) or not expect:
        return malformed(name, expect, "a case expects something")
    expected = cast("Mapping[str, object]", expect)
    known = EXPECTATIONS[kind] | {"error"}
    if unknown := sorted(str(field) for field in expected if field not in known):
        return malformed(name, expect, f"unknown expectation {unknown[0]}")
    return judge(name, kind, body.get("given"), expected)


def judge(name: str, kind: str, given: object, expected: Mapping[str, object]) -> CaseResult:
    wanted_error = expected.get("error")
    try:
        answer = ANSWERS[kind](given)
    except Reject as reject:
        passed = isinstance(wanted_error, str) and bool(wanted_error) and reject.code.startswith(wanted_error)
        pointer = reject.errors[0].pointer if reject.errors else ""
        actual = {"error": reject.code, "pointer": pointer, "detail": reject.detail}
        return CaseResult(id=name, passed=passed and len(expected) == 1, expected=expected, actual=actual)
    actual = {field: comparable(answer[field]) for field in expected if field != "error"}
    passed = "error" not in expected and all(same(expected[field], actual[field]) for field in expected)
    return CaseResult(id=name, passed=passed, expected=expected, actual=actual or comparable(answer))


def malformed(name: str, expected: object, detail: str) -> CaseResult:
    actual = {"error": "case.malformed", "detail": detail}
    return CaseResult(id=name, passed=False, expected=expected, actual=actual)


def comparable(value: object) -> object:
    """An answer in the shape of expectations: a line is its amount."""
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [cast("Answer", item)["amount"] if isinstance(item, dict) else item for item in items]
    return value


def same(expected: object, actual: object) -> bool:
    """Whether an answer is what was expected: numbers and instants by value, lists by item, maps by what is named."""
    match expected, actual:
        case Mapping(), Mapping():
            wanted, got = cast("Mapping[str, object]", expected), cast("Mapping[str, object]", actual)
            return all(key in got and same(value, got[key]) for key, value in wanted.items())
        case list(), list():
            items, others = cast("list[object]", expected), cast("list[object]", actual)
            return len(items) == len(others) and all(same(a, b) for a, b in zip(items, others, strict=True))
        case str() | int(), str():
            value = value_of(expected)
            return value is not None and value == value_of(actual)
        case _:
            return False


def value_of(value: object) -> Decimal | datetime | None:
    """Text as the number or the instant that it is; None when it is neither."""
    if isinstance(value, bool):
        return None
    text = str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        pass
    else:
        return number if number.is_finite() else None
    try:
        return parse_instant(text)
    except (ValueError, OverflowError):
        return None


ANSWERS: Mapping[str, Callable[[object], Answer]] = {
    "quote": quote_given,
    "invoice": invoice_given,
    "prorate": prorate_given,
    "periods": periods_given,
    "burn_down": burn_down_given,
}
