"""What billing speaks to, and how far usage is complete."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.clickhouse.client import Client
from infra.postgres.billing import load_stored_seqs
from infra.postgres.due import Moment
from infra.postgres.pool import Database, PgConnection
from infra.postgres.shards import usage_as_of

NEVER = datetime.min.replace(tzinfo=UTC)
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What billing speaks to, and its settings. `grace`: how long a period may still get events after its end."""

    database: Database
    clickhouse: Client
    grace: timedelta
    chunk_size: int
    events_topic: str
    events_partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How far usage is complete, read before any usage is: `as_of` None before the first batch of every partition."""

    as_of: datetime | None
    seqs: Mapping[int, int]


def load_stored(doors: Doors, connection: PgConnection) -> Stored:
    """How far usage is complete now; read it before any usage."""
    return Stored(
        as_of=usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions),
        seqs=load_stored_seqs(connection),
    )


def complete_usage_until(doors: Doors, as_of: datetime | None, moment: Moment) -> datetime:
    """Before which instant the usage of a period must end to be complete."""
    if moment.clock_id is not None:
        return FOREVER
    return NEVER if as_of is None else as_of - doors.grace
