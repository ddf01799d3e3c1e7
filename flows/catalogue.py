"""The catalogue at one version, folded from its log: whose a subject is, which meters look at a type of event."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from flows.events import Kind
from infra.postgres.catalogue import Change
from schemas.catalogue import ClockEntry, EntitlementEntry, EntryKind, MeterEntry, SubjectEntry
from schemas.instants import to_micros


@dataclass(slots=True)
class Catalogue:
    """State at `version`. Changed by `advance` alone, between two batches.

    `meters` are all revisions that are counted, by kind; `tenant_meters`, by number, those that readers use.

    `clocks` are what test clocks show, in microseconds since 1970, by the clock's number, and `former_clocks` until
    which real instant they showed what before; `clock_of`, by the customer's number, the clock it lives by;
    `clock_tenants`, who has any.

    `changed_entitlements`, `changed_meters` and `changed_clocks` are the numbers of those that `advance` has touched
    since a reader last emptied the sets.
    """

    version: int = 0
    customers: defaultdict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    meters: dict[Kind, tuple[MeterEntry, ...]] = field(default_factory=dict[Kind, tuple[MeterEntry, ...]])
    revisions: dict[str, tuple[int, MeterEntry]] = field(default_factory=dict[str, tuple[int, MeterEntry]])
    tenant_meters: dict[int, tuple[int, MeterEntry]] = field(default_factory=dict[int, tuple[int, MeterEntry]])
    entitlements: dict[int, EntitlementEntry] = field(default_factory=dict[int, EntitlementEntry])
    clocks: dict[int, int] = field(default_factory=dict[int, int])
    former_clocks: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    clock_of: dict[int, int] = field(default_factory=dict[int, int])
    clock_tenants: set[int] = field(default_factory=set[int])
    changed_entitlements: set[int] = field(default_factory=set[int])
    changed_meters: set[int] = field(default_factory=set[int])
    changed_clocks: set[int] = field(default_factory=set[int])

    def advance(self, changes: Iterable[Change], version: int) -> None:
        """Apply the newest changes of every key after the present version, up to `version`."""
        kinds: set[Kind] = set()
        for change in changes:
            match change.kind:
                case EntryKind.SUBJECT:
                    self._put_subject(change)
                case EntryKind.METER:
                    kinds |= self._put_meter(change)
                case EntryKind.ENTITLEMENT:
                    self._put_entitlement(change)
                case EntryKind.CLOCK:
                    self._put_clock(change)
        for kind in kinds:
            looking = [meter for no, meter in self.revisions.values() if (no, meter.event_type) == kind]
            self.meters[kind] = tuple(sorted(looking, key=lambda meter: (meter.meter_no, meter.revision)))
        self.version = version

    def _put_subject(self, change: Change) -> None:
        if isinstance(change.entry, SubjectEntry):
            self.customers[change.tenant_no][change.key] = change.entry.customer_no
            if change.entry.clock_no:  # for good: a customer keeps its clock
                self.clock_of[change.entry.customer_no] = change.entry.clock_no
        else:
            self.customers[change.tenant_no].pop(change.key, None)

    def _put_clock(self, change: Change) -> None:
        if isinstance(change.entry, ClockEntry):
            self.clocks[int(change.key)] = to_micros(change.entry.now)
            if change.entry.moved_at is not None and change.entry.former is not None:
                self.former_clocks[int(change.key)] = to_micros(change.entry.moved_at), to_micros(change.entry.former)
            self.changed_clocks.add(int(change.key))
            self.clock_tenants.add(change.tenant_no)

    def _put_entitlement(self, change: Change) -> None:
        self.changed_entitlements.add(int(change.key))
        if isinstance(change.entry, EntitlementEntry):
            self.entitlements[int(change.key)] = change.entry
        else:
            self.entitlements.pop(int(change.key), None)

    def _put_meter(self, change: Change) -> set[Kind]:
        """Put the meter in the place of what was there; the kinds whose meters changed."""
        former = self.revisions.pop(change.key, None)
        touched = set[Kind]()
        self.changed_meters.add(int(change.key.partition(":")[0]))
        if former is not None:
            touched.add((former[0], former[1].event_type))
            if self.tenant_meters.get(former[1].meter_no) == former:
                del self.tenant_meters[former[1].meter_no]
        if isinstance(change.entry, MeterEntry):
            self.revisions[change.key] = (change.tenant_no, change.entry)
            touched.add((change.tenant_no, change.entry.event_type))
            if change.entry.active:
                self.tenant_meters[change.entry.meter_no] = (change.tenant_no, change.entry)
        return touched
