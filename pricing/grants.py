"""What a subscription entitles to, written out from its phases: each entitlement with the time in which it holds.

One that goes on unchanged from a phase to the next is one. Usage counts from the instant at which the subscription
first entitled to the feature, whatever came between: a change of plan, an add-on or a pause neither forgets what was
used in the running period nor grants it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pricing.periods import BillingPeriod


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An entitlement of a plan or an add-on. `limit`, `rollover_max`, `reset` and `enforcement` are of a metered
    feature (the first two as decimal text, None: unlimited, and nothing is carried over), `value` of another; `source`
    is "plan" or the id of the add-on."""

    feature_id: str
    source: str
    limit: str | None = None
    rollover_max: str | None = None
    reset: str | None = None
    enforcement: str | None = None
    value: Any = None
    billing_period: BillingPeriod
    billing_period_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What is granted from `start` to before `end` (None: for good); nothing in a pause."""

    start: datetime
    end: datetime | None
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A grant that holds from `effective_at` to before `ends_at`, its usage counted from `starts_at` on."""

    grant: Grant
    starts_at: datetime
    effective_at: datetime
    ends_at: datetime | None


def write_out(stretches: Sequence[Stretch]) -> list[Granted]:
    """The entitlements of stretches that follow one another, by the time at which they begin. Empty ones are passed
    by; of one source and feature there is at most one grant at a time."""
    first: dict[str, datetime] = {}
    running: dict[tuple[str, str], Granted] = {}
    found: list[Granted] = []
    for stretch in stretches:
        if stretch.end is not None and stretch.end <= stretch.start:
            continue
        still: dict[tuple[str, str], Granted] = {}
        for grant in stretch.grants:
            key = (grant.feature_id, grant.source)
            starts_at = first.setdefault(grant.feature_id, stretch.start)
            former = running.get(key)
            if former is not None and former.grant == grant and former.ends_at == stretch.start:
                still[key] = replace(running.pop(key), ends_at=stretch.end)
            else:
                still[key] = Granted(grant=grant, starts_at=starts_at, effective_at=stretch.start, ends_at=stretch.end)
        found.extend(running.values())
        running = still
    found.extend(running.values())
    return sorted(found, key=lambda each: (each.effective_at, each.grant.feature_id, each.grant.source))
