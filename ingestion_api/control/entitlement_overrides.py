"""What a subscription's plan entitles to, agreed otherwise for this one subscription."""

from collections.abc import Mapping, Sequence
from typing import Any

from ingestion_api.control.plan_terms import read_terms
from ingestion_api.problems import pointer
from schemas.errors import Reject

#: What names the feature, and is no term.
_NAMES = ("feature", "feature_id", "type")

Entitlement = Mapping[str, Any]


def amend_entitlements(
    former: Mapping[str, dict[str, Any]],
    before: Sequence[Entitlement],
    given: Mapping[str, dict[str, Any] | None],
    plan: Sequence[Entitlement],
) -> dict[str, dict[str, Any]]:
    """The overrides after a change, whole terms by the feature's key. `before` and `plan`: what the plan entitled to
    until now, and what it does from now on. One of `former` is kept while that is the same; null takes one away.

    Raises Reject: `subscription.unknown_entitlement`, `subscription.invalid_entitlement`, `request.unknown_field`,
    each with its pointer.
    """
    entitled = {each["feature"]: each for each in plan}
    keys = {each["feature_id"]: each["feature"] for each in plan}
    was = {each["feature"]: each for each in before}
    named: dict[str, dict[str, Any] | None] = {}
    for reference, override in given.items():
        where = pointer("entitlement_overrides", reference)
        key = keys.get(reference, reference)
        if key in named:
            raise Reject.at(where, "subscription.duplicate_entitlement", f"{key!r} is named twice.")
        if override is not None and key not in entitled:
            detail = f"The plan does not entitle to {reference!r}; give it to the customer itself."
            raise Reject.at(where, "subscription.unknown_entitlement", detail)
        named[key] = None if override is None else _read(entitled[key], override, where)
    kept = {
        key: override
        for key, override in former.items()
        if key in entitled and key not in named and was.get(key) == entitled[key]
    }
    return {**kept, **{key: override for key, override in named.items() if override is not None}}


def _read(entitlement: Entitlement, override: dict[str, Any], where: str) -> dict[str, Any]:
    for name in _NAMES:
        if name in override:
            raise Reject.at(where + pointer(name), "request.unknown_field", "There is no such field here.")
    terms = {name: value for name, value in entitlement.items() if name not in _NAMES}
    if override.get("limit", "") is None:
        terms.pop("rollover_max", None)  # of what has no limit nothing is left
    return read_terms(entitlement["type"], {**terms, **override}, where, code="subscription.invalid_entitlement")
