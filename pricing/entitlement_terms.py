"""Entitlements as they are stored, a mapping each: when one is in effect, which period counts, and what of the period
before is carried over into it.

Everybody who decides on them or measures them asks here: checks, reservations, alerts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from pricing.entitlements import EntitlementPeriod, Reset, carried_over, entitlement_period
from pricing.explain import ZERO
from pricing.periods import Alignment, BillingPeriod
from schemas.money import EXACT

Terms = Mapping[str, Any]

#: What the periods of an entitlement follow from.
PERIOD_TERMS = (
    "reset", "starts_at", "timezone", "billing_anchor", "billing_period", "billing_period_count", "alignment",
)  # fmt: skip


def in_effect_at(terms: Terms, instant: datetime) -> bool:
    """Whether an entitlement holds at an instant: from `effective_at` to before `holds_until`."""
    until = terms["holds_until"]
    return terms["effective_at"] <= instant and (until is None or instant < until)


def period_of(terms: Terms, instant: datetime) -> EntitlementPeriod:
    """The period of a metered entitlement that contains an instant not before its start."""
    return entitlement_period(
        instant,
        Reset(terms["reset"]),
        starts_at=terms["starts_at"],
        timezone=terms["timezone"],
        billing_anchor=terms["billing_anchor"],
        billing_period=BillingPeriod(terms["billing_period"]),
        billing_period_count=terms["billing_period_count"],
        alignment=Alignment(terms["alignment"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """The period before the present one of an entitlement that carries over, and the limit that ended it."""

    period: EntitlementPeriod
    limit: Decimal


def formers_of(
    rows: Sequence[Terms], all_rows: Sequence[Terms], periods: Mapping[int, EntitlementPeriod]
) -> dict[int, Former]:
    """Of those metered `rows` into whose period something may be carried over, by `no`: from where.

    What was in force when the period before ended has given its limit: of the same subscription, source and feature
    among `all_rows`, in effect or not, reset by the same terms. After a pause nothing is carried over.
    """
    found: dict[int, Former] = {}
    by_place: dict[tuple[Any, ...], list[Terms]] = {}
    for row in all_rows:
        by_place.setdefault(_place(row), []).append(row)
    for row in rows:
        start = periods[row["no"]].start
        if row["rollover_max"] is None or start <= row["starts_at"]:
            continue
        before = next((each for each in by_place.get(_place(row), ()) if _precedes(each, row, start)), None)
        if before is not None and before["limit_quantity"] is not None:
            period = period_of(row, start - datetime.resolution)
            found[row["no"]] = Former(period=period, limit=before["limit_quantity"])
    return found


def _place(row: Terms) -> tuple[Any, ...]:
    return row["subscription_id"], row["source"], row["feature_id"]


def _precedes(each: Terms, row: Terms, start: datetime) -> bool:
    """Whether it was in force right before `start`, in the place that the row has now."""
    return (
        all(each[name] == row[name] for name in PERIOD_TERMS)
        and each["effective_at"] < start
        and (each["ends_at"] is None or start <= each["ends_at"])
    )


def carried_into(
    rows: Iterable[Terms], formers: Mapping[int, Former], used: Mapping[int, Decimal]
) -> dict[int, Decimal]:
    """By `no`, what of the limit of the period before was not used there, up to the most that is carried over."""
    return {
        row["no"]: carried_over(limit=formers[row["no"]].limit, used=used[row["no"]], rollover_max=row["rollover_max"])
        for row in rows
        if row["no"] in formers
    }


def limit_with(row: Terms, carried: Mapping[int, Decimal]) -> Decimal | None:
    """An entitlement's limit with what was carried over into its period; None: it has none."""
    limit = row["limit_quantity"]
    return None if limit is None else EXACT.add(limit, carried.get(row["no"], ZERO))
