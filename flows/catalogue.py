"""The catalogue at one version, folded from its log: whose a subject is, which meters look at a type of event."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from flows.events import Kind
from infra.postgres.catalogue import Change
from schemas.catalogue import EntitlementEntry, EntryKind, MeterEntry, SubjectEntry


@dataclass(slots=True)
class Catalogue:
    """State at `version`. Changed by `advance` alone, between two batches."""

    version: int = 0
    customers: defaultdict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    meters: dict[Kind, tuple[MeterEntry, ...]] = field(default_factory=dict[Kind, tuple[MeterEntry, ...]])
    entitlements: dict[int, EntitlementEntry] = field(default_factory=dict[int, EntitlementEntry])
    _meter_of: dict[tuple[int, str], MeterEntry] = field(default_factory=dict[tuple[int, str], MeterEntry])

    def advance(self, changes: Iterable[Change], version: int) -> None:
        """Apply the newest changes of every key after the present version, up to `version`."""
        kinds: set[Kind] = set()
        for change in changes:
            match change.entry:
                case SubjectEntry(customer_no=customer_no):
                    self.customers[change.tenant_no][change.key] = customer_no
                case MeterEntry() as meter:
                    kinds |= self._replace_meter(change, meter)
                case EntitlementEntry() as entitlement:
                    self.entitlements[entitlement.entitlement_no] = entitlement
                case None:
                    kinds |= self._remove(change)
        for tenant_no, event_type in kinds:
            looking = [m for (no, _), m in self._meter_of.items() if no == tenant_no and m.event_type == event_type]
            self.meters[tenant_no, event_type] = tuple(sorted(looking, key=lambda meter: meter.meter_no))
        self.version = version

    def meter(self, meter_no: int) -> MeterEntry | None:
        """The meter of this number, whoever's it is."""
        return next((meter for (_, key), meter in self._meter_of.items() if key == str(meter_no)), None)

    def _replace_meter(self, change: Change, meter: MeterEntry | None) -> set[Kind]:
        """Put the meter in the place of what was there; the kinds whose meters changed."""
        key = (change.tenant_no, change.key)
        former = self._meter_of.pop(key, None)
        if meter is not None:
            self._meter_of[key] = meter
        return {(change.tenant_no, m.event_type) for m in (former, meter) if m is not None}

    def _remove(self, change: Change) -> set[Kind]:
        match change.kind:
            case EntryKind.SUBJECT:
                self.customers[change.tenant_no].pop(change.key, None)
            case EntryKind.ENTITLEMENT:
                self.entitlements.pop(int(change.key), None)
            case EntryKind.METER:
                return self._replace_meter(change, None)
        return set()
