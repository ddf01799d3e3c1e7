"""An advance of a test clock that is killed anywhere: what is due is done once, in the order of time."""

import os
import signal
import subprocess
import sys

import pytest

from billing_workflows import clocks
from infra.postgres.test_clocks import begin_advance, insert_clock
from schemas.billing import BilledSubscription
from schemas.ids import Prefix, new_id
from tests.support.billing import ADVANCE, World, instant

WAIT_SECONDS = 60
FAR = "2099-01-01"


def new_clock(world: World) -> str:
    """A clock at new year."""
    clock_id, now = new_id(Prefix.TEST_CLOCK), instant("2026-01-01")
    with world.doors.database.transaction() as connection:
        insert_clock(
            connection, clock_id=clock_id, tenant_id=world.tenant_id, name="year", shows=now, metadata={}, now=now
        )
    return clock_id


@pytest.fixture
def clock_id(world: World) -> str:
    world.stored_until(FAR)
    return new_clock(world)


def subscribe(world: World, clock_id: str) -> BilledSubscription:
    """A subscription, in advance from new year on, of a customer who lives by the clock."""
    subscription = world.subscribe(ADVANCE)
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


def test_an_advance_killed_between_any_two_writes_bills_each_period_once_at_its_time(
    world: World, clock_id: str
) -> None:
    subscription, by_real_time = subscribe(world, clock_id), world.subscribe(ADVANCE)
    go_to(world, clock_id, "2026-04-01")
    seen: list[tuple[str, int]] = []
    for point in ("clock.moved", "clock.worked", "clock.moved", "clock.worked"):
        assert advance(world, clock_id, crash_at=point) == -signal.SIGKILL
        status, shows = clock(world, clock_id)
        assert status == "advancing"
        seen.append((shows, len(world.invoices(subscription))))
    assert seen == [("2026-01-01", 0), ("2026-01-01", 1), ("2026-01-02", 1), ("2026-01-02", 1)]  # the first is dunned
    assert advance(world, clock_id) == 0
    assert clock(world, clock_id) == ("ready", "2026-04-01")
    invoices = world.invoices(subscription)
    assert [invoice["total_minor"] for invoice in invoices] == [4900] * 4
    months = [instant(f"2026-0{month}-01") for month in (1, 2, 3, 4)]
    assert [invoice["finalized_at"] for invoice in invoices] == months
    assert world.invoices(by_real_time) == []
    told = world.rows("SELECT type FROM outbox WHERE object_id = %(id)s", id=clock_id)
    assert [row["type"] for row in told] == ["test_clock.ready"]


def test_ready_clocks_are_looked_at_page_by_page_and_none_is_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "MAX_READY", 2)
    made = {new_clock(world) for _ in range(5)}
    for clock_id in made:
        subscribe(world, clock_id)
    found, after_id = clocks.find_work(world.doors.database, after_id="")
    while after_id:
        page, after_id = clocks.find_work(world.doors.database, after_id=after_id)
        assert len(page) <= 2
        found |= page
    assert {clock_id for clock_id, reason in found.items() if reason == "ready"} >= made
