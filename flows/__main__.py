"""`python -m flows`: the usage flow of one shard. Shard 0 also relays system events and replays events whose subject
came. Settings come by environment.

SIGTERM and SIGINT end it cleanly after the batch in hand, with status 0. Anything broken (a store that is away, another
owner of the shard) ends it with status 1 and a reason in the log; its supervisor starts it again, and it goes on from
where PostgreSQL says.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # polars reads it on import; processes scale here, not threads

import gc
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import structlog
from bytewax.testing import run_main

from flows.background import Background
from flows.balances import BalanceTeller
from flows.catalogue import Catalogue
from flows.counters import CounterBook
from flows.dedup import Dedup
from flows.groups import GroupWatch
from flows.inbox import relay_inbox
from flows.outbox import relay
from flows.replay import replay
from flows.shards import Shard
from flows.sink import Sink
from flows.usage import Stages, rebuilt_filter, usage_flow
from flows.webhooks import relay_webhooks
from flows.writer import Writer
from infra import metrics
from infra.arrow import forgo_pandas
from infra.clickhouse.client import connect as connect_clickhouse
from infra.clickhouse.sink import stored_identities
from infra.clickhouse.unavailable import ClickHouseUnavailable
from infra.kafka.changes import ChangeLog
from infra.kafka.consumer import LogReader
from infra.kafka.producer import Producer
from infra.kafka.system_log import SystemLog
from infra.kafka.unavailable import KafkaUnavailable
from infra.postgres.pool import connect as connect_postgres
from infra.postgres.unavailable import PostgresUnavailable
from infra.settings import Settings
from infra.telemetry import configure_logging
from schemas.errors import MeterlineError, Retry

#: The hot loop makes few cycles: a collection every 50,000 new containers, and hardly ever a full one.
GC_THRESHOLDS = (50_000, 20, 100)

BALANCES_TIMEOUT_SECONDS = 10
MAX_UNTOLD_BYTES = 16 * 1024 * 1024
CLOSE_TIMEOUT_SECONDS = 1

#: What the stores' clients raise when a server is away, or goes; their own causes say less.
STORE_ERRORS = (PostgresUnavailable, ClickHouseUnavailable, KafkaUnavailable)

log = structlog.get_logger()


def now() -> datetime:
    return datetime.now(UTC)


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the shard until `stop` is set. Raises whatever broke."""
    with ExitStack() as resources:
        connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
        writer_connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
        client = connect_clickhouse(settings.clickhouse_url)
        writer_client = connect_clickhouse(settings.clickhouse_url)
        resources.callback(client.close)
        resources.callback(writer_client.close)
        reader = resources.enter_context(LogReader(settings.kafka_bootstrap, settings.events_topic))

        shard = Shard(settings, reader=reader, connection=connection, clock=now, stop=stop)
        shard.start()
        window = timedelta(days=settings.dedup_window_days)
        dedup = Dedup(
            known=rebuilt_filter(client, shard, window),
            look_up=lambda hashes: stored_identities(client, hashes),
            window=window,
        )
        writer = Writer(
            client=writer_client,
            connection=writer_connection,
            topic=settings.events_topic,
            shard=shard.number,
            interval_seconds=settings.flow_insert_ms / 1000,
            on_stored=dedup.forget,
        )
        catalogue = Catalogue()
        book = CounterBook()
        producer = Producer(
            settings.kafka_bootstrap,
            linger_ms=0,
            timeout_seconds=BALANCES_TIMEOUT_SECONDS,
            queued_bytes=MAX_UNTOLD_BYTES,
        )
        resources.callback(producer.close, CLOSE_TIMEOUT_SECONDS)
        balances = BalanceTeller(
            producer,
            settings.balances_topic,
            partitions=settings.events_partitions,
            shard=shard.number,
            shards=settings.flow_shards,
        )
        sink = Sink(
            settings,
            connection=connection,
            client=client,
            writer=writer,
            catalogue=catalogue,
            book=book,
            balances=balances,
            clock=now,
        )
        stages = Stages(
            connection=connection,
            catalogue=catalogue,
            dedup=dedup,
            groups=GroupWatch(settings.group_cardinality_limit),
            partitions=settings.events_partitions,
        )
        beside = start_beside(settings, resources, stop) if shard.number == 0 else []
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("flow started", shard=shard.number, partitions=shard.partitions)
        run_main(usage_flow(shard, stages, sink))
        writer.close()
        for work in beside:
            work.close()


def start_beside(settings: Settings, resources: ExitStack, stop: threading.Event) -> list[Background]:
    """What only one process does: relay system events, also to webhooks, replay events whose subject came."""
    relay_connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
    webhooks_connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
    replay_connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
    client = connect_clickhouse(settings.clickhouse_url)
    resources.callback(client.close)
    system = SystemLog(settings.kafka_bootstrap, settings.system_topic)
    changes = ChangeLog(settings.kafka_bootstrap, settings.events_topic, partitions=settings.events_partitions)
    shards = settings.flow_shards
    inbox: list[Background] = []
    if settings.inbox_topic:
        inbox_connection = resources.enter_context(connect_postgres(settings.postgres_dsn))
        inbox = [Background("inbox", lambda: relay_inbox(settings, inbox_connection, stop), stop)]
    return [
        *inbox,
        Background("outbox", lambda: relay(relay_connection, system, stop), stop),
        Background("webhooks", lambda: relay_webhooks(settings, webhooks_connection, stop, clock=now), stop),
        Background("replay", lambda: replay(replay_connection, client, changes, shards=shards, stop=stop), stop),
    ]


def main() -> int:
    """Run until told to stop; the exit status."""
    settings = Settings()
    configure_logging(settings, service="flows")
    forgo_pandas()
    metrics.serve(settings.metrics_port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        run(settings, stop)
    except Exception as error:
        reason = explained(reason_of(error))
        if isinstance(reason, MeterlineError):
            log.error("flow stopped", code=reason.code, detail=reason.detail)
        else:
            log.exception("flow stopped", reason=repr(reason))
        return 1
    log.info("flow ended", shard=settings.flow_shard)
    return 0


def reason_of(error: BaseException) -> BaseException:
    """What broke, inside what Bytewax wraps it in."""
    while error.__cause__ is not None and not isinstance(error, (MeterlineError, *STORE_ERRORS)):
        error = error.__cause__
    return error


def explained(reason: BaseException) -> BaseException:
    """A store that is away as a Retry (`store.unavailable`, `broker.unavailable`): one line says all. Else the same."""
    said = " ".join(str(reason).split())
    match reason:
        case PostgresUnavailable():
            return Retry("store.unavailable", f"PostgreSQL does not answer: {said}")
        case ClickHouseUnavailable():
            return Retry("store.unavailable", f"ClickHouse does not answer: {said}")
        case KafkaUnavailable():
            return Retry("broker.unavailable", f"Kafka does not answer: {said}")
        case _:
            return reason


if __name__ == "__main__":
    sys.exit(main())
