"""What handlers share: made once by the entry point, found at `request.app.state.context`."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from infra.clickhouse.client import Client
from infra.kafka.changes import ChangeLog
from infra.kafka.producer import Producer
from infra.postgres.pool import Database, PgConnection
from infra.settings import Settings
from ingestion_api.auth import KeyCache
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.stored import StoredUsage
from ingestion_api.entitlements.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    settings: Settings
    database: Database
    clickhouse: Client
    stored_usage: StoredUsage  # for checks
    keys: KeyCache
    producer: Producer | None  # of the raw route of events, the only one that publishes
    changes: ChangeLog
    started_at: datetime
    replica: Replica
    streams: Streams

    @contextmanager
    def changing(self, tenant_id: str) -> Generator[PgConnection]:
        """A transaction that may change what checks of the tenant answer: the next one of this process knows of it."""
        with self.replica.fence(tenant_id) as raise_fence, self.database.transaction() as connection:
            yield connection
            raise_fence(connection)


async def context_of(request: Request) -> Context:
    """The context, as a dependency: `context: FromContext`."""
    return request.app.state.context


FromContext = Annotated[Context, Depends(context_of)]
