"""What Hypothesis draws: prices of every model with every modifier, usage that suits them, and JSON that suits none."""

from typing import Any

from hypothesis import strategies as st

from pricing.charges import Price, parse_price
from pricing.matrix import Matrix
from pricing.models import Percentage
from schemas.money import format_decimal

CURRENCIES = st.sampled_from(["USD", "JPY", "KWD", "CLF", "EUR"])
QUANTITY_MODELS = ("flat", "per_unit", "package", "graduated", "volume", "stairstep", "graduated_percentage", "dynamic")
MODELS = (*QUANTITY_MODELS, "percentage", "matrix")


def numbers(low: str = "-10000", high: str = "10000", places: int = 6) -> st.SearchStrategy[str]:
    return st.decimals(min_value=low, max_value=high, places=places, allow_nan=False, allow_infinity=False).map(
        format_decimal
    )


def amounts(high: str = "1000") -> st.SearchStrategy[str]:
    return numbers("0", high)


@st.composite
def tiers(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[str]]) -> list[dict[str, Any]]:
    bounds = sorted(draw(st.sets(st.integers(1, 2000), max_size=4)))
    return [
        {"up_to": None if bound is None else str(bound), **{name: draw(value) for name, value in fields.items()}}
        for bound in [*bounds, None]
    ]


@st.composite
def model_bodies(draw: st.DrawFn, models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """A model's own fields, none of them negative."""
    model = draw(st.sampled_from(models))
    zero = draw(st.sampled_from([{}, {"zero_quantity": "free"}]))
    flat = {"flat_amount": amounts()}
    match model:
        case "flat":
            body: dict[str, Any] = {"amount": draw(amounts())}
        case "per_unit":
            body = {"unit_amount": draw(amounts())}
        case "package":
            body = {
                "package_size": draw(numbers("0.1", "500", 1)),
                "package_amount": draw(amounts()),
                "rounding": draw(st.sampled_from(["up", "down"])),
            }
        case "graduated" | "volume":
            body = {"tiers": draw(tiers({"unit_amount": amounts(), **flat})), **zero}
        case "stairstep":
            body = {"tiers": draw(tiers({"amount": amounts()})), **zero}
        case "graduated_percentage":
            body = {"tiers": draw(tiers({"rate": amounts("100"), **flat})), **zero}
        case "dynamic":
            body = {"multiplier": draw(amounts("10"))}
        case "percentage":
            minimum, maximum = sorted([draw(st.integers(0, 50)), draw(st.integers(0, 50))])
            extras = {
                "fixed_amount": draw(amounts("5")),
                "free_transactions": draw(st.integers(0, 4)),
                "free_amount": draw(amounts("300")),
                "transaction_minimum": str(minimum),
                "transaction_maximum": str(maximum),
            }
            kept = draw(st.sets(st.sampled_from(sorted(extras))))
            body = {"rate": draw(amounts("20")), **{name: extras[name] for name in sorted(kept)}}
        case _:
            body = draw(matrix_bodies())
    return {"model": model, **body}


@st.composite
def matrix_bodies(draw: st.DrawFn) -> dict[str, Any]:
    match = st.dictionaries(st.sampled_from(["r", "s"]), st.sampled_from(["a", "b", "c"]), max_size=2)
    cells = draw(st.lists(st.fixed_dictionaries({"match": match, "unit_amount": amounts()}), max_size=5))
    return {"dimensions": ["r", "s"], "cells": cells, "default_unit_amount": draw(amounts())}


@st.composite
def price_bodies(draw: st.DrawFn, models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """A price of any model with any modifiers that may stand beside it."""
    body = draw(model_bodies(models))
    modifiers: dict[str, Any] = {
        "discount_percent": draw(amounts("100")),
        "maximum_amount": draw(amounts("100000")),
        "minimum_amount": draw(amounts("100000")),
        "commitment": {
            "amount": draw(amounts("100000")),
            "overage_factor": draw(numbers("1", "3", 2)),
            "true_up": draw(st.booleans()),
        },
        "custom_unit": {"code": "credits", "conversion_rate": draw(numbers("0.000001", "100"))},
    }
    if body["model"] not in ("matrix", "percentage"):
        modifiers["included_quantity"] = draw(amounts())
    if body["model"] != "matrix":
        modifiers["unit_conversion"] = {
            "divide_by": draw(st.sampled_from(["1", "3", "7", "10", "1000", "0.3"])),
            "rounding": draw(st.sampled_from(["none", "up", "down", "half_up"])),
            "precision": draw(st.integers(-2, 4)),
        }
    kept = draw(st.sets(st.sampled_from(sorted(modifiers))))
    body |= {name: modifiers[name] for name in sorted(kept)}
    if body["model"] != "percentage" and draw(st.booleans()):
        body |= {"bucket": "day", "bucket_aggregation": "max"}
    return body


@st.composite
def usage_bodies(draw: st.DrawFn, price: Price) -> dict[str, Any]:
    """One kind of usage that the price takes."""
    if isinstance(price.model, Matrix) and draw(st.booleans()):
        group = st.dictionaries(st.sampled_from(["r", "s", "t"]), st.sampled_from(["a", "b"]), max_size=3)
        return {"groups": draw(st.lists(st.fixed_dictionaries({"group": group, "quantity": numbers()}), max_size=5))}
    if isinstance(price.model, Percentage):
        return {"transactions": draw(st.lists(numbers("-500", "1000"), max_size=8))}
    if price.bucket is not None:
        return {"buckets": draw(st.lists(numbers(), max_size=6))}
    return {"quantity": draw(st.one_of(numbers(), st.just("0"), st.integers(-2000, 2000).map(str)))}


@st.composite
def quotes(draw: st.DrawFn, models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """The `given` of a quote that has an answer."""
    body = draw(price_bodies(models))
    return {"currency": draw(CURRENCIES), "price": body, **draw(usage_bodies(parse_price(body)))}


def discounts() -> st.SearchStrategy[list[dict[str, str]]]:
    one = st.one_of(st.builds(lambda x: {"percent": x}, amounts("120")), st.builds(lambda x: {"amount": x}, amounts()))
    return st.lists(one, max_size=3)


def taxes() -> st.SearchStrategy[list[dict[str, Any]]]:
    def tax(name: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({name: amounts("50")}, optional={"inclusive": st.booleans()})

    return st.lists(st.one_of(tax("percent"), tax("amount")), max_size=3)


@st.composite
def invoices(draw: st.DrawFn) -> dict[str, Any]:
    """The `given` of an invoice that has an answer."""
    currency = draw(CURRENCIES)
    lines: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            line: dict[str, Any] = {"amount": draw(numbers())}
        else:
            line = draw(quotes())
            del line["currency"]
        lines.append(line | {"discounts": draw(discounts())})
    given: dict[str, Any] = {
        "currency": currency,
        "lines": lines,
        "discounts": draw(discounts()),
        "taxes": draw(taxes()),
    }
    if draw(st.booleans()):
        given["credits"] = draw(amounts("5000"))
    if draw(st.booleans()):
        given["commitment"] = {"amount": draw(amounts("5000")), "overage_factor": "1.5", "true_up": draw(st.booleans())}
    return given


#: What clients send by mistake or by malice, wherever a value may stand.
STRANGE = st.sampled_from(
    [
        None, True, False, 0, -1, 1.5, 10**400, "", "NaN", "-Infinity", "1e400", "1e-2000000", "9" * 200, "0x10", "１",
        "-0", "1_000", " 1", "\ud800", "ZZZ", "usd", "XAU", "free", "../../etc/passwd", "America", "once", {}, [], [[]],
        [None], {"": None}, {"a": {"b": []}}, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
        "2026-02-30T00:00:00Z",
        [{"up_to": None}] * 3, ["1"] * 5, [{"group": None, "quantity": "1"}],
    ]
)  # fmt: skip

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), STRANGE),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, body: Any) -> Any:
    """A body with one to three places replaced, removed or added."""
    for _ in range(draw(st.integers(1, 3))):
        body = draw(damaged_once(body))
    return body


@st.composite
def damaged_once(draw: st.DrawFn, body: Any) -> Any:
    if isinstance(body, dict) and body and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(body)))
        if draw(st.booleans()):
            return {key: value for key, value in body.items() if key != name}
        return {**body, name: draw(damaged_once(body[name]))}
    if isinstance(body, list) and body and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(body) - 1))
        return [draw(damaged_once(item)) if place == index else item for place, item in enumerate(body)]
    return draw(st.one_of(STRANGE, JSON))
