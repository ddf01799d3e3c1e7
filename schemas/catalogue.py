"""What flows must know of the control plane, as entries of the catalogue log (`catalogue_changes`).

The control plane appends an entry in the transaction of the change; a flow holds the newest entry of each key. The
key of a subject is the subject itself; of a meter, `meter_key`; of an entitlement or a test clock, the decimal text of
its `no`.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from schemas.meters import Aggregation, Filter


class EntryKind(StrEnum):
    SUBJECT = "subject"
    METER = "meter"
    ENTITLEMENT = "entitlement"
    CLOCK = "clock"


class SubjectEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Events with this subject are this customer's, who lives by the test clock `clock_no`, or by none (0)."""

    customer_no: int
    clock_no: int = 0


class MeterEntry(msgspec.Struct, frozen=True):
    """A meter at one revision. While one is built from the past, the one that readers use is counted beside it."""

    meter_no: int
    revision: int
    event_type: str
    aggregation: Aggregation
    value: str | None
    filters: tuple[Filter, ...]
    group_by: tuple[str, ...]  # property names, without `$.`
    active: bool = True  # readers use this revision; false: it is being built


def meter_key(meter: MeterEntry) -> str:
    """The catalogue key of a revision of a meter."""
    return f"{meter.meter_no}:{meter.revision}"


class EntitlementEntry(msgspec.Struct, frozen=True):
    """A metered entitlement whose usage is counted. Its periods follow from `reset` and the terms below.

    `reset` is one of hour, day, week, month, year (of the calendar in `timezone`), billing_period (of the
    subscription: `billing_period` x `billing_period_count` from `billing_anchor`), or never. The first period
    starts at `starts_at`; nothing counts from `ends_at` on.
    """

    entitlement_no: int
    customer_no: int
    meter_no: int
    reset: str
    timezone: str
    alignment: str  # anniversary | calendar, of billing_period resets
    billing_anchor: datetime
    billing_period: str
    billing_period_count: int
    starts_at: datetime
    ends_at: datetime | None


class ClockEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A test clock of the tenant: events of its customers may not be later than `now`. Until the real instant
    `moved_at` it showed `former`."""

    now: datetime
    moved_at: datetime | None = None
    former: datetime | None = None


ENTRY_TYPES = {
    EntryKind.SUBJECT: SubjectEntry,
    EntryKind.METER: MeterEntry,
    EntryKind.ENTITLEMENT: EntitlementEntry,
    EntryKind.CLOCK: ClockEntry,
}
