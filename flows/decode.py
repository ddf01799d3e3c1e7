"""Messages of the log to columns of events. What is no sound batch is set aside as poison; the rest goes on."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.events import Events, Kind, Texts
from infra.kafka.consumer import Message
from infra.kafka.event_log import unseal
from infra.postgres.poison import PoisonMessage
from schemas.events import EventBatch

MILLISECOND_MICROS = 1000
MAX_REASON_LENGTH = 500  # characters

Sealed = tuple[Message, EventBatch]


def decode(messages: Sequence[Message], *, partitions: int) -> tuple[Events | None, list[PoisonMessage]]:
    """The events of the messages in their order, and the messages that hold none.

    A message is poison when it can't be unpacked, its columns don't fit each other, a text is not UTF-8, or an identity
    belongs to another of the topic's `partitions`. None: no event is left.
    """
    opened: list[Sealed] = []
    poison: list[PoisonMessage] = []
    for message in messages:
        try:
            opened.append((message, unseal(message.value)))
        except ValueError as error:
            poison.append(poison_of(message, error))
    if not opened:
        return None, poison
    try:
        return _join(opened, partitions), poison
    except ValueError:
        sound = _set_aside_unsound(opened, partitions, poison)
    return (_join(sound, partitions) if sound else None), poison


def _set_aside_unsound(opened: list[Sealed], partitions: int, poison: list[PoisonMessage]) -> list[Sealed]:
    """Try each message by itself."""
    sound: list[Sealed] = []
    for message, batch in opened:
        try:
            _join([(message, batch)], partitions)
        except ValueError as error:
            poison.append(poison_of(message, error))
        else:
            sound.append((message, batch))
    return sound


def poison_of(message: Message, error: ValueError) -> PoisonMessage:
    """The message as it is kept aside, with the reason."""
    return PoisonMessage(
        partition=message.partition,
        offset=message.offset,
        reason=str(error)[:MAX_REASON_LENGTH],
        message=message.value,
        appended_at=message.appended_at,
    )


def _join(opened: list[Sealed], partitions: int) -> Events:
    """One set of columns of all batches. Raises ValueError when one of them is not sound."""
    messages = [message for message, _ in opened]
    batches = [batch for _, batch in opened]
    if not all(1 <= batch.count < 1 << 32 for batch in batches):
        raise ValueError("a batch without events, or of more than a message can hold")
    if not all(0 <= batch.tenant_no < 1 << 32 for batch in batches):
        raise ValueError("a tenant number out of range")
    counts = np.array([batch.count for batch in batches], np.int64)
    starts = np.cumsum(counts) - counts
    n = int(counts.sum())
    tenant_of = np.array([batch.tenant_no for batch in batches], np.uint32)
    words = _numbers([batch.hashes for batch in batches], "<u8", counts * 2, n * 2).reshape(-1, 2)
    partition_of = np.array([message.partition for message in messages], np.int64)
    if (words[:, 0] % np.uint64(partitions) != np.repeat(partition_of, counts).astype(np.uint64)).any():
        raise ValueError("an identity on a partition that is not its own")
    kinds, kind_codes = _coded(
        [[(batch.tenant_no, name) for name in batch.types] for batch in batches],
        [batch.type_codes for batch in batches],
        counts,
        n,
    )
    sources, source_codes = _coded(
        [batch.sources for batch in batches], [batch.source_codes for batch in batches], counts, n
    )
    appended_at = np.array([message.appended_at_ms for message in messages], np.int64) * MILLISECOND_MICROS
    return Events(
        tenants=np.repeat(tenant_of, counts),
        words=words,
        partitions=np.repeat(partition_of.astype(np.uint16), counts),
        offsets=np.repeat(np.array([message.offset for message in messages], np.int64), counts),
        indexes=(np.arange(n) - np.repeat(starts, counts)).astype(np.uint32),
        received_at=np.repeat(appended_at, counts),
        occurred_at=_numbers([batch.times for batch in batches], "<i8", counts, n),
        kinds=kinds,
        kind_codes=kind_codes,
        untimed=_untimed(batches, starts, n),
        sources=pa.array(sources, pa.string()).take(pa.array(source_codes)),
        ids=_texts([b.ids for b in batches], [b.id_lengths for b in batches], counts, starts),
        subjects=_texts([b.subjects for b in batches], [b.subject_lengths for b in batches], counts, starts),
        data=_texts([b.data for b in batches], [b.data_lengths for b in batches], counts, starts),
        extensions=_extensions(batches, starts, n),
    )


def _numbers(blobs: list[bytes], kind: str, counts: NDArray[np.int64], n: int) -> NDArray[Any]:
    """The numbers in the blobs, one blob a message, `counts` numbers in each."""
    width = np.dtype(kind).itemsize
    if [len(blob) for blob in blobs] != (counts * width).tolist():
        raise ValueError("a column of numbers of the wrong length")
    return np.frombuffer(b"".join(blobs), kind, n)


def _coded(
    dictionaries: Sequence[Sequence[Any]], blobs: list[bytes], counts: NDArray[np.int64], n: int
) -> tuple[list[Any], NDArray[np.int64]]:
    """One dictionary for all messages, and each event's code in it."""
    codes = _numbers(blobs, "<u2", counts, n).astype(np.int64)
    sizes = np.array([len(dictionary) for dictionary in dictionaries], np.int64)
    if (codes >= np.repeat(sizes, counts)).any():
        raise ValueError("a code beyond its dictionary")
    known: dict[str | Kind, int] = {}
    table = np.array([known.setdefault(name, len(known)) for name in chain.from_iterable(dictionaries)], np.int64)
    return list(known), table[codes + np.repeat(np.cumsum(sizes) - sizes, counts)]


def _texts(
    blobs: list[bytes], length_blobs: list[bytes], counts: NDArray[np.int64], starts: NDArray[np.int64]
) -> Texts:
    """Texts that lie one after another in the blobs, without copying any."""
    n = int(counts.sum())
    lengths = _numbers(length_blobs, "<u2", counts, n)
    if np.add.reduceat(lengths, starts, dtype=np.int64).tolist() != [len(blob) for blob in blobs]:
        raise ValueError("a column of texts of the wrong length")
    ends = np.zeros(n + 1, np.int32)
    np.cumsum(lengths, out=ends[1:], dtype=np.int32)
    texts = pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(b"".join(blobs)))
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"a text that is not UTF-8: {error}") from error
    return texts


def _untimed(batches: list[EventBatch], starts: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    untimed = np.zeros(n, np.bool_)
    for batch, start in zip(batches, starts.tolist(), strict=True):
        if batch.untimed:
            if len(batch.untimed) % 4:
                raise ValueError("a column of numbers of the wrong length")
            rows = np.frombuffer(batch.untimed, "<u4")
            if int(rows.max()) >= batch.count:
                raise ValueError("an event without time that is not there")
            untimed[start + rows.astype(np.int64)] = True
    return untimed


def _extensions(batches: list[EventBatch], starts: NDArray[np.int64], n: int) -> Texts:
    if not any(batch.extensions for batch in batches):
        return pa.repeat(pa.scalar("", pa.string()), n)
    texts = [""] * n
    for batch, start in zip(batches, starts.tolist(), strict=True):
        for index, text in batch.extensions.items():
            if not 0 <= index < batch.count:
                raise ValueError("an extension of an event that is not there")
            texts[start + index] = text
    return pa.array(texts, pa.string())
