"""An advance of a test clock that is killed anywhere: what is due is done once, in the order of time."""

import signal

import pytest

from billing_workflows import clocks
from tests.support.billing import ADVANCE, World, instant
from tests.support.clocks import advance, clock, go_to, new_clock, subscribe

FAR = "2099-01-01"


@pytest.fixture
def clock_id(world: World) -> str:
    world.stored_until(FAR)
    return new_clock(world)


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
    assert {clock_id for clock_id, work in found.items() if work.reason == "ready"} >= made
