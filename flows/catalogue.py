"""The catalogue at one version, folded from its log: whose a subject is, which meters look at a type of event."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from flows.events import Kind
from infra.postgres.catalogue import Change
from schemas.catalogue import EntitlementEntry, EntryKind, MeterEntry, SubjectEntry


@dataclass(slots=True)
class Catalogue:
    """State at `version`. Changed by `advance` alone, between two batches.

    `changed_entitlements` are the numbers of those that `advance` has touched since a reader last emptied the set.
    """

    version: int = 0
    customers: defaultdict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    meters: dict[Kind, tuple[MeterEntry, ...]] = field(default_factory=dict[Kind, tuple[MeterEntry, ...]])
    tenant_meters: dict[int, tuple[int, MeterEntry]] = field(default_factory=dict[int, tuple[int, MeterEntry]])
    entitlements: dict[int, EntitlementEntry] = field(default_factory=dict[int, EntitlementEntry])
    changed_entitlements: set[int] = field(default_factory=set[int])

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
        for kind in kinds:
            looking = [meter for no, meter in self.tenant_meters.values() if (no, meter.event_type) == kind]
            self.meters[kind] = tuple(sorted(looking, key=lambda meter: meter.meter_no))
        self.version = version

    def _put_subject(self, change: Change) -> None:
        if isinstance(change.entry, SubjectEntry):
            self.customers[change.tenant_no][change.key] = change.entry.customer_no
        else:
            self.customers[change.tenant_no].pop(change.key, None)

    def _put_entitlement(self, change: Change) -> None:
        self.changed_entitlements.add(int(change.key))
        if isinstance(change.entry, EntitlementEntry):
            self.entitlements[int(change.key)] = change.entry
        else:
            self.entitlements.pop(int(change.key), None)

    def _put_meter(self, change: Change) -> set[Kind]:
        """Put the meter in the place of what was there; the kinds whose meters changed."""
        former = self.tenant_meters.pop(int(change.key), None)
        touched = {(former[0], former[1].event_type)} if former else set[Kind]()
        if isinstance(change.entry, MeterEntry):
            self.tenant_meters[int(change.key)] = (change.tenant_no, change.entry)
            touched.add((change.tenant_no, change.entry.event_type))
        return touched
