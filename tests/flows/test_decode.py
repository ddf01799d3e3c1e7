"""What is no sound batch of events is set aside with its reason; its neighbours are read."""

import msgspec
import numpy as np
import pytest

from flows.changes import decode_changes
from flows.decode import decode
from infra.kafka.consumer import Message
from infra.kafka.event_log import MAX_UNPACKED_BYTES, VERSION_BYTE, seal, seal_change
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeBatch, ChangeKind, EventBatch
from tests.flows.columns import APPENDED_AT_MS, message
from tests.support.usage_log import NOON, Sent, batch_of

GOOD = [Sent(id="a", data={"tokens": 1}), Sent(id="é", source="b", type="t", extensions="{}")]


def test_columns_are_what_was_sent() -> None:
    events, poison = decode([message(GOOD), message([Sent(id="c", tenant_no=7)], offset=1)], partitions=1)
    assert events is not None
    assert not poison
    assert events.ids.to_pylist() == ["a", "é", "c"]
    assert events.sources.to_pylist() == ["api", "b", "api"]
    assert [events.kinds[code] for code in events.kind_codes] == [(1, "llm.request"), (1, "t"), (7, "llm.request")]
    assert events.data.to_pylist() == ['{"tokens": 1}', "{}", "{}"]
    assert events.extensions.to_pylist() == ["", "{}", ""]
    assert events.offsets.tolist() == [0, 0, 1]
    assert events.indexes.tolist() == [0, 1, 0]
    assert events.tenants.tolist() == [1, 1, 7]
    assert events.received_at.tolist() == [APPENDED_AT_MS * 1000] * 3
    assert events.occurred_at.tolist() == [int(NOON.timestamp()) * 1_000_000] * 3


def unsound(**changes: object) -> bytes:
    return seal(msgspec.structs.replace(batch_of(GOOD), **changes))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02",
        VERSION_BYTE + b"nothing",
        VERSION_BYTE + (MAX_UNPACKED_BYTES + 1).to_bytes(4, "little") + b"x",
        seal(batch_of(GOOD))[:-3],
        unsound(count=0, hashes=b"", times=b""),
        unsound(count=3),
        unsound(count=-1),
        unsound(count=1 << 63),
        unsound(count=1 << 62),
        unsound(tenant_no=1 << 40),
        unsound(tenant_no=(1 << 64) - 1),
        unsound(ids=b"a"),
        unsound(data_lengths=np.array([9, 9], "<u2").tobytes()),
        unsound(type_codes=np.array([0, 9], "<u2").tobytes()),
        unsound(ids=b"\xff\xc3\xa9"),
        unsound(subjects=b"acme\xc3cme"),
        unsound(extensions={2: "{}"}),
    ],
)
def test_an_unsound_message_is_set_aside_whole_and_nothing_else(value: bytes) -> None:
    messages = [message(GOOD), Message(0, 8, APPENDED_AT_MS, value), message([Sent(id="c")], offset=9)]
    events, poison = decode(messages, partitions=1)
    assert events is not None
    assert events.ids.to_pylist() == ["a", "é", "c"]
    assert [(m.partition, m.offset, m.message) for m in poison] == [(0, 8, value)]
    assert poison[0].reason


IDENTITIES = [bytes([n]) * 16 for n in range(4)]  # on partition 0 of 1


def change(**fields: object) -> bytes:
    sound = ChangeBatch(tenant_no=1, kind=ChangeKind.VOID, hashes=b"".join(IDENTITIES))
    return seal_change(msgspec.structs.replace(sound, **fields))


def test_changes_are_what_was_sent_each_identity_once() -> None:
    hashes = b"".join([*IDENTITIES, *IDENTITIES[:2]])
    (found,), poison = decode_changes([Message(0, 7, APPENDED_AT_MS, change(hashes=hashes))], partitions=1)
    assert not poison
    assert (found.offset, found.tenant_no, found.kind) == (7, 1, ChangeKind.VOID)
    assert list(found.identities) == IDENTITIES


@pytest.mark.parametrize(
    "value",
    [
        b"\x02",
        b"\x02nothing",
        change()[:-3],
        change(hashes=b""),
        change(hashes=b"short"),
        change(hashes=bytes(16) * (MAX_CHANGES_A_MESSAGE + 1)),
        change(tenant_no=1 << 32),
        change(tenant_no=-1),
        change(kind="undo"),
    ],
    ids=["empty", "noise", "cut", "none", "part", "many", "tenant", "below", "kind"],
)
def test_a_message_of_changes_that_is_unsound_is_set_aside_whole_and_nothing_else(value: bytes) -> None:
    messages = [Message(0, offset, APPENDED_AT_MS, body) for offset, body in enumerate([change(), value, change()])]
    found, poison = decode_changes(messages, partitions=1)
    assert [part.offset for part in found] == [0, 2]
    assert [(m.partition, m.offset, m.message) for m in poison] == [(0, 1, value)]
    assert poison[0].reason


def test_an_identity_on_a_partition_that_is_not_its_own_is_poison() -> None:
    """Its copies would be judged elsewhere."""
    batch = EventBatch(**{name: getattr(batch_of(GOOD[:1]), name) for name in EventBatch.__struct_fields__})
    home = int.from_bytes(batch.hashes[:8], "little") % 4
    events, poison = decode([Message((home + 1) % 4, 0, APPENDED_AT_MS, seal(batch))], partitions=4)
    assert events is None
    assert len(poison) == 1
