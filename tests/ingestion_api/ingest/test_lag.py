"""Answers wait while the flow works and is behind; a flow that stands still slows nobody."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from infra.metrics import INGEST_DELAY, INGEST_FLOW_LAG
from infra.migrate import migrate_postgres
from infra.postgres.pool import Database, connect
from infra.settings import Settings
from ingestion_api.ingest import lag
from ingestion_api.ingest.lag import FULL_DELAY_FACTOR, MAX_DELAY_SECONDS, STILL_SECONDS, LagWatch

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def new_watch(database: Database, *, bearable_seconds: float = 5) -> LagWatch:
    return LagWatch(database, topic="t", partitions=2, bearable_seconds=bearable_seconds, clock=lambda: NOON)


def delays(looks: Sequence[tuple[float, float | None]]) -> list[float]:
    """The delay after each look: (seconds since noon, lag in seconds or unknown)."""
    watch = new_watch(Database(""))
    found: list[float] = []
    for at, lag_seconds in looks:
        now = NOON + seconds(at)
        watch.look(None if lag_seconds is None else now - seconds(lag_seconds), now)
        found.append(watch.delay_seconds)
    return found


def test_the_delay_grows_with_the_lag_and_has_an_end() -> None:
    full = 5 * FULL_DELAY_FACTOR
    assert delays([(0, 0), (1, 5), (2, (5 + full) / 2), (3, full), (4, 10_000), (5, 3)]) == [
        0, 0, MAX_DELAY_SECONDS / 2, MAX_DELAY_SECONDS, MAX_DELAY_SECONDS, 0
    ]  # fmt: skip


def test_a_flow_that_stands_still_slows_nobody_until_it_moves() -> None:
    dead = [(at, 100.0 + at) for at in range(STILL_SECONDS + 1)]  # complete up to the same instant all the time
    assert [delay > 0 for delay in delays([*dead, (STILL_SECONDS + 1, 60)])] == [True] * STILL_SECONDS + [False, True]


def test_an_unknown_lag_slows_nobody() -> None:
    assert delays([(0, 100), (1, None), (2, -3)]) == [MAX_DELAY_SECONDS, 0, 0]


def test_it_looks_at_what_the_flow_has_committed_and_shows_it(
    fresh_stack: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "LOOK_SECONDS", 0.01)
    connection = connect(fresh_stack.postgres_dsn)
    database = Database(fresh_stack.postgres_dsn)
    watch = new_watch(database)

    async def wait_for(wanted: float) -> None:
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            while watch.delay_seconds != wanted:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.01)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    asyncio.run(wait_for(0))  # before the tables are there
    migrate_postgres(connection)
    for partition, behind in ((0, 1), (1, 5 * FULL_DELAY_FACTOR)):
        connection.execute(
            "INSERT INTO shard_offsets (topic, partition, shard, next_offset, counted_until)"
            " VALUES ('t', %s, 0, 0, %s)",
            (partition, NOON - seconds(behind)),
        )
    asyncio.run(wait_for(MAX_DELAY_SECONDS))
    assert INGEST_FLOW_LAG.collect()[0].samples[0].value == 5 * FULL_DELAY_FACTOR
    assert INGEST_DELAY.collect()[0].samples[0].value == MAX_DELAY_SECONDS
    connection.close()
    database.close()


def test_it_can_be_switched_off() -> None:
    asyncio.run(new_watch(Database(""), bearable_seconds=0).run())
