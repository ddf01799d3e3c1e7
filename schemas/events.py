"""The batch of events on the log: one Kafka message of `usage.events`, columns as blobs.

A message holds events of one tenant whose identities hash to one partition. `ingestion_api` encodes it, `flows`
decodes it; both through this shape. On the topic it is one version byte, then an LZ4 block of its msgpack form.
The position of an event is (partition, offset, index in the batch); the first copy of an identity counts.
"""

from enum import StrEnum

import msgspec

BATCH_VERSION = 1
CHANGE_VERSION = 2

#: Kafka headers of a message, all ASCII.
HEADER_TENANT_NO = "tenant"  # decimal text of tenants.no
HEADER_COUNT = "count"  # decimal text of the number of events
#: Of the requests whose events are in a message, so either may come several times: for tracing, nothing rests on them.
HEADER_REQUEST_ID = "request-id"
HEADER_TRACEPARENT = "traceparent"  # W3C Trace Context
MAX_TRACE_HEADERS = 64  # of one message

MAX_EVENTS_A_REQUEST = 10_000
MAX_REQUEST_BYTES = 16 * 1024 * 1024  # decoded
#: Of id, source, type, subject, data and extensions together. Each is shorter, so its length on the log has 16 bits.
MAX_EVENT_BYTES = 64 * 1024
MAX_FUTURE_SECONDS = 300
MAX_FIELD_LENGTH = 512  # characters of id, source, type and subject
MAX_CHANGES_A_MESSAGE = 500

DEFAULT_SOURCE = "api"


class EventBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`count` events of one tenant, in order. All numbers in blobs are little-endian.

    hashes            16 bytes an event: the identity hash (xxh3-128 of the id, seeded by tenant and source)
    times             i64 an event: microseconds since 1970, the event's own time
    ids, subjects, data   UTF-8 texts one after another; u16 lengths in bytes in `*_lengths`; data is a JSON object
    sources, types    dictionaries; u16 codes an event in `*_codes`
    untimed           u32 indexes of events that came without a time and took that of their receipt, as a blob
    extensions        JSON object text of CloudEvents extension attributes, of the few events that have them
    """

    tenant_no: int
    count: int
    hashes: bytes
    times: bytes
    ids: bytes
    id_lengths: bytes
    subjects: bytes
    subject_lengths: bytes
    sources: list[str]
    source_codes: bytes
    types: list[str]
    type_codes: bytes
    data: bytes
    data_lengths: bytes
    untimed: bytes = b""
    extensions: dict[int, str] = {}


class ChangeKind(StrEnum):
    """`void` takes an event back, `replay` judges a quarantined one anew."""

    VOID = "void"
    REPLAY = "replay"


class ChangeBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Changes to events that stand earlier on the log, of one tenant, on the partition of their identities.

    It stands on the log like any batch, with CHANGE_VERSION before it, so what it changes is a function of the log.
    hashes   16 bytes an event, at most MAX_CHANGES_A_MESSAGE of them: its identity hash
    """

    tenant_no: int
    kind: ChangeKind
    hashes: bytes


_change_decoder = msgspec.msgpack.Decoder(ChangeBatch)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EventBatch)


def encode_batch(batch: EventBatch) -> bytes:
    """The batch as msgpack, not yet compressed."""
    return _encoder.encode(batch)


def decode_batch(packed: bytes | memoryview) -> EventBatch:
    """The batch from msgpack. Raises msgspec.MsgspecError when it is none."""
    return _decoder.decode(packed)


def encode_change(change: ChangeBatch) -> bytes:
    """The change as msgpack, not yet compressed."""
    return _encoder.encode(change)


def decode_change(packed: bytes | memoryview) -> ChangeBatch:
    """The change from msgpack. Raises msgspec.MsgspecError when it is none."""
    return _change_decoder.decode(packed)
