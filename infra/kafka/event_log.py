"""The events topic's message: identity hashes, and a batch sealed as one version byte and an LZ4 block.

The topic itself stays uncompressed: the broker would otherwise unpack every message to check it.
"""

import lz4.block
import xxhash

from schemas.events import (
    BATCH_VERSION,
    CHANGE_VERSION,
    MAX_REQUEST_BYTES,
    ChangeBatch,
    EventBatch,
    decode_batch,
    decode_change,
    encode_batch,
    encode_change,
)

VERSION_BYTE = bytes([BATCH_VERSION])
CHANGE_BYTE = bytes([CHANGE_VERSION])

#: More than any accepted request can need; a message that claims more would only fill the reader's memory.
MAX_UNPACKED_BYTES = 2 * MAX_REQUEST_BYTES


def identity_seed(tenant_no: int, source: str) -> int:
    """The seed that ties an identity to its tenant and source: a tenant can only ever collide with itself."""
    return xxhash.xxh3_64_intdigest(f"{tenant_no}\0{source}".encode())


def identity_hash(tenant_no: int, source: str, event_id: str) -> bytes:
    """16 bytes that stand for (tenant, source, id). The low bits of the first word choose the partition."""
    return xxhash.xxh3_128_digest(event_id.encode(), identity_seed(tenant_no, source))


def partition_of(identity: bytes, partitions: int) -> int:
    """The partition that holds every copy of this identity: its first eight bytes, little-endian, modulo."""
    return int.from_bytes(identity[:8], "little") % partitions


def seal(batch: EventBatch) -> bytes:
    """The message of a batch."""
    return VERSION_BYTE + lz4.block.compress(encode_batch(batch))


def seal_change(change: ChangeBatch) -> bytes:
    """The message of changes to earlier events."""
    return CHANGE_BYTE + lz4.block.compress(encode_change(change))


def is_change(message: bytes) -> bool:
    """Whether the message says that it holds changes; it may still be broken."""
    return message[:1] == CHANGE_BYTE


def unpacked_bytes(message: bytes) -> int:
    """What the message says it unpacks to; 0 when it says nothing. Not to be trusted beyond MAX_UNPACKED_BYTES."""
    return int.from_bytes(message[1:5], "little")


def unseal(message: bytes) -> EventBatch:
    """The batch of a message. Raises ValueError when it is none that this version can read."""
    try:
        return decode_batch(_unpack(message, VERSION_BYTE))
    except (lz4.block.LZ4BlockError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise ValueError(f"not a batch of events: {error}") from error


def unseal_change(message: bytes) -> ChangeBatch:
    """The changes of a message. Raises ValueError when it holds none that this version can read."""
    try:
        return decode_change(_unpack(message, CHANGE_BYTE))
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise ValueError(f"not a batch of changes: {error}") from error


def _unpack(message: bytes, version: bytes) -> bytes:
    if message[:1] != version:
        raise ValueError(f"message format {message[:1]!r} is not {version!r}")
    if unpacked_bytes(message) > MAX_UNPACKED_BYTES:
        raise ValueError(f"the message claims to unpack to more than {MAX_UNPACKED_BYTES} bytes")
    return lz4.block.decompress(memoryview(message)[1:])
