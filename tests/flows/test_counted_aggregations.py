"""Counters of every aggregation are what usage says of the same period, whatever happened."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from flows import counting, seed, sweeping
from infra.postgres.catalogue import Change
from pricing.entitlements import Reset, entitlement_period
from schemas.counters import COUNTED_BY
from schemas.events import ChangeKind
from schemas.meters import Aggregation
from tests.support.counters import Figures, counted, measured
from tests.support.usage_log import RunningFlow, Sent, UsageLog, entitlement, meter, wait_for

NOW = datetime.now(UTC)
START = NOW - timedelta(days=400, minutes=3)
METERS = {
    no: meter(no, event_type="any", aggregation=aggregation, value=None if aggregation is Aggregation.COUNT else "$.n")
    for no, aggregation in enumerate(sorted(COUNTED_BY), 1)
}
ENTITLED = [
    entitlement(10 * customer + no, meter_no=no, customer_no=customer, starts_at=START, reset=reset)
    for no in METERS
    for customer, reset in ((1, "month"), (2, "never"))
]
PRESENT = entitlement_period(NOW, Reset.MONTH, starts_at=START, timezone="UTC", billing_anchor=START)
VALUES = [1, -2, "2.5", "0.000000000001", 7, 7, 0, 10**30, -(10**30)]
VOID = ChangeKind.VOID


@pytest.fixture(scope="module")
def world(log: UsageLog) -> UsageLog:
    log.customers({"acme": 1, "beta": 2})
    log.meters(*METERS.values())
    log.catalogue(ENTITLED)
    return log


def events_of(name: str, count: int) -> list[Sent]:
    """Events of two customers around the ends of the present period and long before, some at the same time."""
    drawn = random.Random(name)
    instants = [NOW, PRESENT.start, PRESENT.start - timedelta(microseconds=1), PRESENT.start - timedelta(days=3)]
    assert PRESENT.end is not None
    instants += [PRESENT.end + timedelta(seconds=30), NOW - timedelta(days=200), PRESENT.start + timedelta(seconds=20)]
    return [
        Sent(
            id=f"{name}-{index}",
            subject=drawn.choice(["acme", "beta"]),
            type="any",
            time=drawn.choice(instants) + timedelta(microseconds=drawn.randrange(3)),
            data={"n": drawn.choice(VALUES)},
        )
        for index in range(count)
    ]


def figures(log: UsageLog, entitled: list[Change] = ENTITLED, *, shards: int = 1) -> Figures:
    return counted(log, METERS, entitled, shards=shards)


def wait_until_equal(log: UsageLog, *flows: RunningFlow, shards: int = 1) -> Figures:
    """Until all periods have a counter, and then each must be what usage says."""
    log.wait_stored(*flows)

    def all_there() -> bool:
        for flow in flows:
            flow.raise_failure()
        return len(figures(log, shards=shards)) == len(METERS) * (3 + 1)

    wait_for(all_there, "every period of every entitlement is counted")
    found = figures(log, shards=shards)
    assert found == measured(log, METERS, ENTITLED, found)
    return found


def test_counters_of_all_aggregations_are_what_usage_says(world: UsageLog) -> None:
    world.send(events_of("before", 60))
    with world.flow() as flow:
        before = wait_until_equal(world, flow)
        assert len(set(before.values())) > 10
        for number in range(2):
            events = events_of(f"round-{number}", 80)
            world.send(events[:60])
            wait_until_equal(world, flow)
            world.send(events[60:])
            world.change(VOID, events[::3])
            wait_until_equal(world, flow)
            world.change(VOID, events[::2])
        world.change(VOID, events_of("before", 60))
        wait_until_equal(world, flow)
    with world.flow() as flow:  # a process that finds all rows there
        world.send(events_of("after", 30))
        assert wait_until_equal(world, flow) != before


def test_what_is_taken_away_from_an_extreme_is_seeded_anew(world: UsageLog) -> None:
    number = next(10 + no for no, each in METERS.items() if each.aggregation is Aggregation.MAX)
    huge = Sent(id="huge", type="any", time=NOW, data={"n": 10**35})
    small = Sent(id="small", type="any", time=NOW, data={"n": 5})
    with world.flow() as flow:
        world.send([huge, small])
        assert wait_until_equal(world, flow)[number, PRESENT.start] == 10**35
        seeded = _version(world, number)
        world.change(VOID, [small])
        wait_until_equal(world, flow)
        assert world.postgres.execute("SELECT FROM entitlement_counters WHERE is_stale").fetchall() == []
        world.change(VOID, [huge])
        assert wait_until_equal(world, flow)[number, PRESENT.start] < 10**35
        assert _version(world, number) > seeded


def test_what_a_flow_seeds_before_its_first_batch_is_not_older_than_what_was_there(world: UsageLog) -> None:
    number = next(10 + no for no, each in METERS.items() if each.aggregation is Aggregation.MAX)
    with world.flow() as flow:
        world.send(events_of("seeded-before", 5))
        wait_until_equal(world, flow)
    before = _version(world, number)
    world.postgres.execute("UPDATE entitlement_counters SET is_stale = true WHERE entitlement_no = %s", (number,))
    with world.flow() as flow:
        wait_until_equal(world, flow)
    assert _version(world, number) >= before > 0, "memory takes no older row for a newer one"


def _version(log: UsageLog, number: int) -> int:
    row = log.postgres.execute(
        "SELECT version FROM entitlement_counters WHERE entitlement_no = %s AND period_start = %s",
        (number, PRESENT.start),
    ).fetchone()
    assert row is not None
    return row["version"]


def test_counters_survive_a_change_of_the_layout(world: UsageLog) -> None:
    for number, shards in enumerate((2, 1, 2)):
        events = events_of(f"layout-{number}", 40)
        world.send(events)
        flows = [
            RunningFlow(world.settings.model_copy(update={"flow_shards": shards, "flow_shard": shard}))
            for shard in range(shards)
        ]
        try:
            wait_until_equal(world, *flows, shards=shards)
            world.change(VOID, [*events[::3], *events_of(f"layout-{number - 1}", 40)[1::3]])
            wait_until_equal(world, *flows, shards=shards)
        finally:
            for flow in flows:
                flow.stop()


@pytest.mark.parametrize("limit", ["seed", "batch"])
def test_a_unique_count_of_too_many_values_is_not_counted_and_what_others_count_stays(
    world: UsageLog, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    no = next(no for no, each in METERS.items() if each.aggregation is Aggregation.UNIQUE_COUNT)
    number = 100 + ["seed", "batch"].index(limit)
    fresh = entitlement(number, meter_no=no, customer_no=number, starts_at=START)
    world.customers({f"many-{limit}": number})
    events = [
        Sent(id=f"{limit}-{index}", type="any", subject=f"many-{limit}", data={"n": index}) for index in range(60)
    ]
    if limit == "seed":
        monkeypatch.setattr(seed, "MAX_SEED_VALUES", 50)
        with world.flow() as flow:
            world.send(events)
            world.wait_stored(flow)
            world.catalogue([fresh])
            wait_for(lambda: given_up(world, number), "it is written down that the period is not counted")
        monkeypatch.undo()
    else:
        monkeypatch.setattr(counting, "MAX_VALUES_A_BATCH", 1)
        world.catalogue([fresh])
        with world.flow() as flow:
            wait_for(lambda: len(figures(world, [fresh])) == 1, "the period is counted")
            world.send(events)
            world.wait_stored(flow)
    with world.flow() as flow:  # it stays given up
        world.send(events_of(f"given-up-{limit}", 20))
        world.wait_stored(flow)
    assert given_up(world, number)
    assert figures(world, [fresh]) == {}
    found = figures(world)
    assert found == measured(world, METERS, ENTITLED, found)


def given_up(log: UsageLog, number: int) -> bool:
    rows = log.postgres.execute(
        "SELECT FROM entitlement_counters WHERE entitlement_no = %s AND is_stale", (number,)
    ).fetchall()
    return bool(rows)


def test_what_a_unique_count_kept_of_ended_periods_is_removed_bit_by_bit(
    world: UsageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "MAX_REMOVED", 2)
    monkeypatch.setattr(sweeping, "PAGE_EVERY", timedelta(0))
    no = next(no for no, each in METERS.items() if each.aggregation is Aggregation.UNIQUE_COUNT)
    old = [(10 + no, START, 1, bytes([index]) * 16, 1) for index in range(5)]
    for row in old:
        world.postgres.execute("INSERT INTO entitlement_values VALUES (%s, %s, %s, %s, %s)", row)
    with world.flow() as flow:

        def swept() -> bool:
            flow.raise_failure()
            left = world.postgres.execute(
                "SELECT FROM entitlement_values WHERE entitlement_no = %s AND period_start = %s", (10 + no, START)
            ).fetchall()
            return not left

        wait_for(swept, "values of the ended period are gone")
