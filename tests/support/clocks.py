"""Test clocks of a small world: made, moved, and advanced by processes that tests kill."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from infra.postgres.test_clocks import begin_advance, insert_clock
from schemas.billing import BilledSubscription
from schemas.ids import Prefix, new_id
from tests.support.billing import ADVANCE, World, instant

WAIT_SECONDS = 240  # for months of a clock on a slow machine


def new_clock(world: World) -> str:
    """A clock at new year."""
    clock_id, now = new_id(Prefix.TEST_CLOCK), instant("2026-01-01")
    with world.doors.database.transaction() as connection:
        insert_clock(
            connection, clock_id=clock_id, tenant_id=world.tenant_id, name="year", shows=now, metadata={}, now=now
        )
    return clock_id


def subscribe(world: World, clock_id: str, *prices: Mapping[str, Any], **terms: Any) -> BilledSubscription:
    """A subscription (default: in advance), from new year on, of a customer who lives by the clock."""
    subscription = world.subscribe(*prices or (ADVANCE,), **terms)
    names = {"clock": clock_id, "customer": subscription.customer_id}
    world.rows("UPDATE customers SET test_clock_id = %(clock)s WHERE id = %(customer)s RETURNING 1", **names)
    world.rows(
        "UPDATE subscriptions SET test_clock_id = %(clock)s WHERE customer_id = %(customer)s RETURNING 1", **names
    )
    return subscription


def go_to(world: World, clock_id: str, to: str) -> None:
    with world.doors.database.transaction() as connection:
        begin_advance(connection, clock_id=clock_id, to=instant(to), catalogue_version=0, now=instant("2026-01-01"))


def advance(world: World, clock_id: str, crash_at: str | None = None) -> int:
    """The exit code of a process that advances the clock to its end."""
    environment = {
        **os.environ,
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
    } | ({} if crash_at is None else {"METERLINE_CRASH_AT": crash_at})
    arguments = [sys.executable, "-m", "tests.support.advance_once", "2026-01-01T00:00:00Z", clock_id]
    return subprocess.run(arguments, env=environment, timeout=WAIT_SECONDS, check=False).returncode


def clock(world: World, clock_id: str) -> tuple[str, str]:
    [row] = world.rows("SELECT status, now FROM test_clocks WHERE id = %(id)s", id=clock_id)
    return row["status"], row["now"].date().isoformat()
