"""What a plan's body must satisfy beyond its shape: its prices are billable, its entitlements fit their features."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from infra.postgres.features import load_features
from infra.postgres.meters import load_meters
from infra.postgres.pool import PgConnection, Row
from ingestion_api.fields import read_decimal
from ingestion_api.problems import pointer
from pricing.charges import PlanPrice, Price, parse_plan_price, serialize
from pricing.matrix import Matrix
from pricing.metered import check_buckets, check_fixed, check_meter
from schemas.errors import Reject
from schemas.meters import Aggregation
from schemas.money import format_decimal

MAX_STATIC_VALUE_BYTES = 4 * 1024
#: What makes an entitlement of a plan unfit; those of a subscription and of a customer have codes of their own.
INVALID = "plan.invalid_entitlement"
RESETS = frozenset({"billing_period", "hour", "day", "week", "month", "year", "never"})
ENFORCEMENTS = frozenset({"hard", "soft"})

METERED_FIELDS = frozenset({"feature", "limit", "reset", "enforcement", "rollover_max"})
VALUE_FIELDS = frozenset({"feature", "value"})


def read_prices(
    connection: PgConnection, bodies: Sequence[Mapping[str, Any]], *, tenant_id: str, currency: str
) -> list[dict[str, Any]]:
    """The prices as they are stored: every default written out, decimals as text, meters by key.

    Raises Reject: `pricing.*` for what the engine refuses, `meter.not_found`, `plan.duplicate_price`,
    `pricing.unfit_meter`; each with the pointer of the field.
    """
    prices = [parse_plan_price(body, pointer("prices", index), currency=currency) for index, body in enumerate(bodies)]
    references = [price.meter for price in prices if price.meter is not None]
    meters = load_meters(connection, tenant_id=tenant_id, references=references) if references else {}
    seen: set[str] = set()
    stored: list[dict[str, Any]] = []
    for index, price in enumerate(prices):
        where = pointer("prices", index)
        if price.key in seen:
            raise Reject.at(f"{where}/key", "plan.duplicate_price", f"Another price has the key {price.key!r}.")
        seen.add(price.key)
        meter = None if price.meter is None else meters.get(price.meter)
        if price.meter is not None and meter is None:
            raise Reject.at(f"{where}/meter", "meter.not_found", f"There is no meter {price.meter!r} in use.")
        check_billable(price, meter, where)
        stored.append({**serialize(price), **({} if meter is None else {"meter": meter["key"]})})
    return stored


def check_billable(price: PlanPrice, meter: Row | None, where: str) -> None:
    """Raise Reject for a price, as it is or as it will be, that can't be billed: the meter can't give what it needs, or
    a period has too many buckets."""
    _check_billable(price, price.price, meter, where)
    for index, change in enumerate(price.changes):
        _check_billable(price, change.price, meter, f"{where}/changes/{index}")


def _check_billable(terms: PlanPrice, price: Price, meter: Row | None, where: str) -> None:
    if meter is None:
        check_fixed(price, where)
    else:
        check_meter(price, Aggregation(meter["aggregation"]), where)
    check_buckets(price, terms.billing_period, terms.billing_period_count, where)
    model = price.model
    if isinstance(model, Matrix):
        groups = [] if meter is None else meter["group_by"]
        missing = [dimension for dimension in model.dimensions if dimension not in groups]
        if missing:
            raise Reject.at(
                f"{where}/dimensions", "plan.unknown_dimension", f"The meter does not group by {missing[0]!r}."
            )


def read_entitlements(
    connection: PgConnection, bodies: Sequence[Mapping[str, Any]], *, tenant_id: str
) -> list[dict[str, Any]]:
    """The entitlements as they are stored: feature by key, with its id and type, and every default written out.

    Raises Reject: `feature.not_found`, `plan.invalid_entitlement`, `plan.duplicate_entitlement`,
    `request.unknown_field`; each with the pointer of the field.
    """
    references = [_reference(body, index) for index, body in enumerate(bodies)]
    features = load_features(connection, tenant_id=tenant_id, references=references) if references else {}
    stored: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index, (reference, body) in enumerate(zip(references, bodies, strict=True)):
        where = pointer("entitlements", index)
        feature = features.get(reference)
        if feature is None:
            raise Reject.at(f"{where}/feature", "feature.not_found", f"There is no feature {reference!r}.")
        if feature["id"] in seen:
            raise Reject.at(
                f"{where}/feature", "plan.duplicate_entitlement", f"The plan entitles to {reference!r} twice."
            )
        seen.add(feature["id"])
        named = {"feature": feature["key"], "feature_id": feature["id"], "type": feature["type"]}
        stored.append({**named, **read_terms(feature["type"], body, where)})
    return stored


def _reference(body: Mapping[str, Any], index: int) -> str:
    reference = body.get("feature")
    if not isinstance(reference, str):
        where = pointer("entitlements", index, "feature")
        raise Reject.at(where, INVALID, "Name the feature by its key or id.")
    return reference


def read_terms(kind: str, body: Mapping[str, Any], where: str, *, code: str = INVALID) -> dict[str, Any]:
    """The terms of an entitlement to a feature of this type, every default written out. Raises Reject: `code`, and
    `request.unknown_field`, with the pointer of the field."""
    known = METERED_FIELDS if kind == "metered" else VALUE_FIELDS
    for name in body:
        if name in (METERED_FIELDS | VALUE_FIELDS) - known:
            raise Reject.at(where + pointer(name), code, f"A {kind} feature has no {name}.")
        if name not in known:
            raise Reject.at(where + pointer(name), "request.unknown_field", "There is no such field here.")
    return _read_limit(body, where, code) if kind == "metered" else _read_value(kind, body, where, code)


def _read_limit(body: Mapping[str, Any], where: str, code: str) -> dict[str, Any]:
    if "limit" not in body:
        raise Reject.at(f"{where}/limit", code, "A metered feature has a limit; null means unlimited.")
    reset, enforcement = body.get("reset", "billing_period"), body.get("enforcement", "hard")
    if not isinstance(reset, str) or reset not in RESETS:
        raise Reject.at(f"{where}/reset", code, f"Must be one of {', '.join(sorted(RESETS))}.")
    if not isinstance(enforcement, str) or enforcement not in ENFORCEMENTS:
        raise Reject.at(f"{where}/enforcement", code, "Must be hard or soft.")
    limit = _read_quantity(body["limit"], f"{where}/limit", code)
    rollover_max = _read_quantity(body.get("rollover_max"), f"{where}/rollover_max", code)
    if rollover_max is not None and (limit is None or reset == "never"):
        raise Reject.at(f"{where}/rollover_max", code, "Only of a limit that is reset something can be carried over.")
    terms = {"limit": limit, "reset": reset, "enforcement": enforcement}
    return terms if rollover_max is None else {**terms, "rollover_max": rollover_max}


def _read_quantity(value: object, where: str, code: str) -> str | None:
    if value is None:
        return None
    try:
        quantity = read_decimal(value)
    except ValueError as error:
        raise Reject.at(where, code, f"{error}") from None
    if quantity < 0:
        raise Reject.at(where, code, "Must not be negative.")
    return format_decimal(quantity)


def _read_value(kind: str, body: Mapping[str, Any], where: str, code: str) -> dict[str, Any]:
    value = body.get("value", True if kind == "boolean" else None)
    if kind == "boolean" and not isinstance(value, bool):
        raise Reject.at(f"{where}/value", code, "A boolean feature's value is true or false.")
    if kind == "static" and value is None:
        raise Reject.at(f"{where}/value", code, "A static feature needs a value: text, a number, a list or an object.")
    if len(msgspec.json.encode(value)) > MAX_STATIC_VALUE_BYTES:
        raise Reject.at(f"{where}/value", code, f"At most {MAX_STATIC_VALUE_BYTES} bytes of JSON.")
    if _has_huge_number(value):
        raise Reject.at(f"{where}/value", code, "A number is beyond what JSON readers agree on; send it as text.")
    return {"value": value}


def _has_huge_number(value: object) -> bool:
    """Whether a number's exponent would write out as more digits than anybody sent."""
    match value:
        case Decimal():
            return abs(value.adjusted()) > MAX_STATIC_VALUE_BYTES
        case list():
            return any(map(_has_huge_number, value))
        case dict():
            return any(map(_has_huge_number, value.values()))
        case _:
            return False
