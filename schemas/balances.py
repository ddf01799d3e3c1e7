"""Messages on the topic of balances: what a replica of entitlements must know to stay as fresh as the counters.

They hold absolute values with a version, so one that is read twice does no harm. None is needed for ever: a replica
starts from PostgreSQL, and reads it anew when a number is missing.
"""

from decimal import Decimal
from typing import NamedTuple

import msgspec

KEEP_MS = 3_600_000
SEGMENT_MS = 600_000

#: A replica that is further behind than this starts over.
BALANCES_TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": str(KEEP_MS),
    "segment.ms": str(SEGMENT_MS),
    "max.message.bytes": str(4 * 1024 * 1024),
}


class Further(NamedTuple):
    """What a row holds beside `used`: see `schemas.counters.CounterPart`. A stale one counts for nothing."""

    events: int
    rank: tuple[Decimal, ...] | None
    is_stale: bool


PLAIN = Further(events=0, rank=None, is_stale=False)


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """What one commit of a shard's flow did to counters. The rows are told column by column.

    shard, shards   whose rows they are, of how many
    process, no     who says so, and the how manieth message of that process it is, from 1
    seq             the version of the rows
    entitlements, starts, revisions
                    the key of each row: entitlement, start of its period (microseconds since 1970), meter's revision
    used            what the row holds now, as decimal text
    until           by partition: counters are complete up to here (microseconds since 1970)
    further         by place in the columns, what is to be said of rows that are no mere sums
    """

    shard: int
    shards: int
    process: int
    no: int
    seq: int
    entitlements: list[int]
    starts: list[int]
    revisions: list[int]
    used: list[str]
    until: dict[int, int]
    further: dict[int, Further] = {}


class Held(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """Somebody reserved or gave back something of these (customer id, feature id): until `until` (microseconds since
    1970) what is held of them is known to PostgreSQL alone."""

    keys: list[tuple[str, str]]
    until: int


Message = Counted | Held

_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """A message as it stands on the topic."""
    return _encoder.encode(message)


def decode(value: bytes) -> Message:
    """Raises msgspec.MsgspecError for what is no message of this release."""
    return _decoder.decode(value)
