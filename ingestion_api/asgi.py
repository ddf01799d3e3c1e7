"""The one ASGI application of the process: the hot paths of events and checks in front, the FastAPI app behind."""

import asyncio
import os
from contextlib import suppress

import structlog
from fastapi import FastAPI

from infra.clickhouse import client as clickhouse
from infra.kafka.changes import ChangeLog
from infra.kafka.producer import Producer
from infra.postgres.pool import Database
from infra.settings import Settings
from ingestion_api import clock
from ingestion_api.app import create_fastapi
from ingestion_api.auth import KeyCache
from ingestion_api.context import Context
from ingestion_api.entitlements import fast
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.stored import open_stored_usage
from ingestion_api.entitlements.streams import Streams
from ingestion_api.ingest import route
from ingestion_api.ingest.body import Receive
from ingestion_api.ingest.keyed import KeyedAnswers
from ingestion_api.ingest.lag import LagWatch
from ingestion_api.ingest.publish import Publisher
from ingestion_api.ingest.route import EventsRoute
from ingestion_api.raw import ScopeMap, Send
from ingestion_api.reservations import fast as fast_reserve

#: The publisher's linger gathers requests of a tenant into messages; this one only messages of several tenants, which
#: the publisher sends together, into requests to the broker.
PRODUCER_LINGER_MS = 1
#: Events in flight are held as messages too, while the producer has them.
QUEUED_BYTES_FACTOR = 2
MAX_UNTOLD_BYTES = 16 * 1024 * 1024  # of what other processes' replicas are to hear
CLOSE_TIMEOUT_SECONDS = 10
EXIT_CRASHED = 70

_log = structlog.get_logger("meterline.api")


def create_app(settings: Settings) -> "MeterlineApp":
    """The application with its connections; they open when the server starts it and close with it."""
    database = Database(settings.postgres_dsn, answer_seconds=settings.api_store_timeout_seconds)
    producer = Producer(
        settings.kafka_bootstrap,
        linger_ms=PRODUCER_LINGER_MS,
        timeout_seconds=settings.ingest_ack_timeout_seconds,
        queued_bytes=settings.ingest_bytes_in_flight * QUEUED_BYTES_FACTOR,
    )
    context = Context(
        settings=settings,
        database=database,
        clickhouse=clickhouse.connect(settings.clickhouse_url, answer_seconds=settings.api_store_timeout_seconds),
        stored_usage=open_stored_usage(settings),
        keys=KeyCache(database, fresh_seconds=settings.api_key_cache_seconds),
        producer=producer,
        changes=ChangeLog(settings.kafka_bootstrap, settings.events_topic, partitions=settings.events_partitions),
        started_at=clock.now(),
        replica=Replica(settings),
        streams=Streams(),
    )
    publisher = Publisher(
        producer,
        topic=settings.events_topic,
        partitions=settings.events_partitions,
        linger_ms=settings.ingest_linger_ms,
        max_bytes_in_flight=settings.ingest_bytes_in_flight,
    )
    balances = Producer(
        settings.kafka_bootstrap,
        linger_ms=0,
        timeout_seconds=settings.ingest_ack_timeout_seconds,
        queued_bytes=MAX_UNTOLD_BYTES,
    )
    lag = LagWatch(
        database,
        topic=settings.events_topic,
        partitions=settings.events_partitions,
        bearable_seconds=settings.ingest_bearable_lag_seconds,
        clock=clock.now,
    )
    return MeterlineApp(context, producer, publisher, lag, create_fastapi(context, publisher, balances))


class MeterlineApp:
    """Routes by path and method, and runs the publisher from the server's start to its end."""

    def __init__(
        self, context: Context, producer: Producer, publisher: Publisher, lag: LagWatch, others: FastAPI
    ) -> None:
        self._context = context
        self._producer = producer
        self._publisher = publisher
        self._lag = lag
        self._events = EventsRoute(context.keys, publisher, lag, KeyedAnswers(context.database, clock=clock.now))
        self._checks = fast.check_route(context, others)
        self._reservations = fast_reserve.reserve_route(context.keys, others.state.reserve_batches, others)
        self._others = others

    async def __call__(self, scope: ScopeMap, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["path"] == route.PATH and scope["method"] == "POST":
            await self._events(scope, receive, send)
        elif scope["path"] == fast.PATH and scope["method"] == "POST":
            await self._checks(scope, receive, send)
        elif scope["path"] == fast_reserve.PATH and scope["method"] == "POST":
            await self._reservations(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    def stop_streams(self) -> None:
        """End what would never end by itself. For the moment before the server stops."""
        self._context.streams.stopping = True

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._context.replica.start()
        publishing = asyncio.create_task(self._publisher.run(), name="publisher")
        publishing.add_done_callback(_crash_unless_cancelled)
        watching = asyncio.create_task(self._lag.run(), name="lag")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in (publishing, watching):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._context.replica.close()
        self._producer.close(CLOSE_TIMEOUT_SECONDS)
        self._context.clickhouse.close()
        self._context.stored_usage.close()
        self._context.database.close()
        await send({"type": "lifespan.shutdown.complete"})


def _crash_unless_cancelled(task: asyncio.Task[None]) -> None:
    """End the process when the publisher dies: without it no request is ever answered. A supervisor starts anew."""
    if not task.cancelled():
        _log.critical("publisher died", exc_info=task.exception())
        os._exit(EXIT_CRASHED)
