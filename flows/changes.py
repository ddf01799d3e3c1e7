"""Messages of changes: which earlier events are to be voided or replayed. What holds none is set aside as poison."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.decode import poison_of
from infra.kafka.consumer import Message
from infra.kafka.event_log import partition_of, unseal_change
from infra.postgres.poison import PoisonMessage
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeKind

IDENTITY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The changes of one message. `identities` are 16 bytes each, each once."""

    partition: int
    offset: int
    tenant_no: int
    kind: ChangeKind
    identities: tuple[bytes, ...]


def decode_changes(messages: Sequence[Message], *, partitions: int) -> tuple[list[Changes], list[PoisonMessage]]:
    """The changes of the messages in their order, and the messages that hold none.

    A message is poison when it can't be unpacked, holds no whole number of identities or too many, or an identity
    belongs to another of the topic's `partitions`.
    """
    found: list[Changes] = []
    poison: list[PoisonMessage] = []
    for message in messages:
        try:
            found.append(_decode(message, partitions))
        except ValueError as error:
            poison.append(poison_of(message, error))
    return found, poison


def _decode(message: Message, partitions: int) -> Changes:
    change = unseal_change(message.value)
    count, rest = divmod(len(change.hashes), IDENTITY_BYTES)
    if rest or not 1 <= count <= MAX_CHANGES_A_MESSAGE:
        raise ValueError("no whole number of identities, none at all, or more than a message may hold")
    if not 0 <= change.tenant_no < 1 << 32:
        raise ValueError("a tenant number out of range")
    identities = [change.hashes[start : start + IDENTITY_BYTES] for start in range(0, len(change.hashes), 16)]
    if any(partition_of(identity, partitions) != message.partition for identity in identities):
        raise ValueError("an identity on a partition that is not its own")
    return Changes(
        partition=message.partition,
        offset=message.offset,
        tenant_no=change.tenant_no,
        kind=change.kind,
        identities=tuple(dict.fromkeys(identities)),
    )
