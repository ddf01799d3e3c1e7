"""Events as the flow's stages see them, made the way the log makes them."""

from collections.abc import Sequence

from flows.catalogue import Catalogue
from flows.decode import decode
from flows.events import Events
from infra.kafka.consumer import Message
from infra.kafka.event_log import seal
from infra.postgres.catalogue import Change
from schemas.catalogue import EntryKind, MeterEntry, SubjectEntry, meter_key
from tests.support.usage_log import Sent, batch_of

APPENDED_AT_MS = 1_773_144_000_000


def message(
    events: Sequence[Sent], *, offset: int = 0, partition: int = 0, appended_at_ms: int = APPENDED_AT_MS
) -> Message:
    """A message of one tenant's events."""
    return Message(partition, offset, appended_at_ms, seal(batch_of(events)))


def columns(events: Sequence[Sent]) -> Events:
    """Events of any tenants, one message a tenant, on the one partition of a topic."""
    tenants = sorted({event.tenant_no for event in events})
    messages = [
        message([event for event in events if event.tenant_no == tenant], offset=offset)
        for offset, tenant in enumerate(tenants)
    ]
    decoded, poison = decode(messages, partitions=1)
    assert decoded is not None
    assert not poison
    return decoded


def catalogue_of(meters: Sequence[MeterEntry], subjects: dict[str, int], *, tenants: Sequence[int] = (1,)) -> Catalogue:
    """A catalogue of these meters of tenant 1, and the same subjects in every tenant."""
    catalogue = Catalogue()
    changes = [Change(kind=EntryKind.METER, tenant_no=1, key=meter_key(m), entry=m) for m in meters]
    changes += [
        Change(kind=EntryKind.SUBJECT, tenant_no=tenant, key=subject, entry=SubjectEntry(customer_no=no + 100 * tenant))
        for tenant in tenants
        for subject, no in subjects.items()
    ]
    catalogue.advance(changes, 1)
    return catalogue
