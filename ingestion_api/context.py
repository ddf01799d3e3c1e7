"""What handlers share: made once by the entry point, found at `request.app.state.context`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from infra.clickhouse.client import Client
from infra.kafka.changes import ChangeLog
from infra.kafka.producer import Producer
from infra.postgres.pool import Database
from infra.settings import Settings
from ingestion_api.auth import KeyCache
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    settings: Settings
    database: Database
    clickhouse: Client
    keys: KeyCache
    producer: Producer | None  # of the raw route of events, the only one that publishes
    changes: ChangeLog
    started_at: datetime
    replica: Replica
    streams: Streams


async def context_of(request: Request) -> Context:
    """The context, as a dependency: `context: FromContext`."""
    return request.app.state.context


FromContext = Annotated[Context, Depends(context_of)]
