"""How a price that is known already is changed: for one subscription, or for everybody from an instant on.

A change that names a `model` is a whole price: model and modifiers are its own. One without is the same price but for
the fields that it names; a field of null is taken away. The terms of a plan (`key`, `meter`, `timing`, …) stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

CHANGES = "changes"

#: What a price is beside its model and modifiers.
TERMS = ("key", "type", "meter", "currency", "billing_period", "billing_period_count", "timing", "prorate")


def amended(price: Mapping[str, object], change: Mapping[str, object]) -> dict[str, object]:
    """The body of a price after a change. Later changes of the old price are none of the new one."""
    if "model" in change:
        return {**{name: price[name] for name in TERMS if name in price}, **change}
    fields = {name: value for name, value in {**price, **change}.items() if value is not None}
    if CHANGES not in change:
        fields.pop(CHANGES, None)
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """A price body and when it begins."""

    at: datetime
    body: Mapping[str, object]


def chain(price: Mapping[str, object], changes: Sequence[tuple[datetime, Mapping[str, object]]]) -> list[Dated]:
    """The bodies that a price has one after another, each change building on the one before."""
    found: list[Dated] = []
    for at, change in changes:
        price = amended(price, change)
        found.append(Dated(at=at, body=price))
    return found
