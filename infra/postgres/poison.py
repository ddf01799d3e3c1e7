"""Messages of the log that could not be read, kept with their place and the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.pool import PgConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonMessage:
    partition: int
    offset: int
    reason: str
    message: bytes
    appended_at: datetime


def record_poison(connection: PgConnection, *, topic: str, messages: Sequence[PoisonMessage]) -> None:
    """Keep them; one that is there already stays as it is."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO poison_messages (topic, partition, message_offset, reason, message, appended_at)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(topic, m.partition, m.offset, m.reason, m.message, m.appended_at) for m in messages],
        )
