"""Changes go onto the log each on the partition of its identity, and whoever publishes hears whether they are there."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.kafka.changes import ChangeLog, change_messages
from infra.kafka.event_log import identity_hash, partition_of, unseal_change
from schemas.errors import Retry
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeKind

IDENTITIES = [identity_hash(7, "api", f"e{n}") for n in range(3 * MAX_CHANGES_A_MESSAGE)]


def test_every_identity_is_once_on_its_own_partition_in_messages_of_a_limited_size() -> None:
    found: list[bytes] = []
    for partition, value in change_messages(
        tenant_no=7, kind=ChangeKind.REPLAY, identities=[*IDENTITIES, *IDENTITIES[:9]], partitions=4
    ):
        change = unseal_change(value)
        assert (change.tenant_no, change.kind) == (7, ChangeKind.REPLAY)
        identities = [change.hashes[start : start + 16] for start in range(0, len(change.hashes), 16)]
        assert len(identities) <= MAX_CHANGES_A_MESSAGE
        assert {partition_of(identity, 4) for identity in identities} == {partition}
        found += identities
    assert sorted(found) == sorted(IDENTITIES)


def test_a_broker_that_does_not_acknowledge_in_time_is_said_each_time() -> None:
    changes = ChangeLog("127.0.0.1:9", "nowhere", partitions=4, timeout_seconds=1)
    for _ in range(2):
        with pytest.raises(Retry) as failure:
            changes.publish(tenant_no=7, kind=ChangeKind.VOID, identities=IDENTITIES[:1])
        assert failure.value.code == "broker.unavailable"


def test_who_waits_behind_a_publication_that_does_not_end_is_sent_away() -> None:
    changes = ChangeLog("127.0.0.1:9", "nowhere", partitions=4, timeout_seconds=1)
    begun, ended = threading.Event(), threading.Event()

    def endless() -> Iterator[bytes]:
        begun.set()
        ended.wait()
        yield IDENTITIES[0]

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(changes.publish, tenant_no=7, kind=ChangeKind.VOID, identities=endless())
        begun.wait()
        try:
            with pytest.raises(Retry, match="Other changes wait"):
                changes.publish(tenant_no=7, kind=ChangeKind.VOID, identities=IDENTITIES[:1])
        finally:
            ended.set()
        with pytest.raises(Retry, match="could not be published"):
            first.result()
