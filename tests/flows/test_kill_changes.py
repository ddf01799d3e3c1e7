"""kill -9 between any two lines of a void or a replay, two flows at once, another layout: each counts exactly once."""

import random
import signal
import time
from datetime import datetime, timedelta
from fractions import Fraction

import pytest

from infra.postgres.catalogue import Change
from schemas.catalogue import EntryKind
from schemas.counters import COUNTED_BY
from schemas.errors import Fenced
from schemas.events import ChangeKind
from schemas.meters import Aggregation
from tests.support.counters import counted, measured
from tests.support.usage_log import (
    NOON,
    WAIT_SECONDS,
    RunningFlow,
    Sent,
    UsageLog,
    entitlement,
    meter,
    minute_of,
    wait_for,
)

VOID, REPLAY = ChangeKind.VOID, ChangeKind.REPLAY

#: `:2`: the first passing is that of what the kill before has left pending. Its redo is drained before the next batch.
CRASH_POINTS = [
    "changes.drained",
    "changes.decided",
    "sink.advanced",
    "changes.decided",
    "sink.redoing",
    "sink.usage_inserted",
    "sink.events_inserted:2",
    "sink.committed:2",
]
LONG_AGO = NOON - timedelta(days=400)
#: Meters of all aggregations that are counted, and an entitlement to each.
COUNTED = {no: meter(no, aggregation=each) for no, each in enumerate(sorted(COUNTED_BY), 50)}
ENTITLED = [entitlement(no, meter_no=no, customer_no=2, starts_at=LONG_AGO) for no in COUNTED]
CUSTOMERS = {"acme": 1, "beta": 2, "later": 3}
METERS = [
    meter(1, group_by=("model",)),
    meter(2, aggregation=Aggregation.COUNT, value=None),
    meter(3, aggregation=Aggregation.MAX),
]


def events_of(name: str, count: int) -> list[Sent]:
    """Events of three customers over three minutes, one of them not known yet."""
    random_source = random.Random(name)
    return [
        Sent(
            id=f"{name}-{index}",
            subject=random_source.choice(list(CUSTOMERS)),
            time=NOON + timedelta(seconds=random_source.randrange(180)),
            data={"tokens": random_source.choice([1, -2, "2.5", 10**30, None]), "model": random_source.choice("ab")},
        )
        for index in range(count)
    ]


@pytest.fixture
def world(log: UsageLog) -> UsageLog:
    """Meters and all customers but one, whose events wait; entitlements of two customers."""
    log.customers({"acme": 1, "beta": 2})
    log.catalogue([Change(kind=EntryKind.SUBJECT, tenant_no=1, key="later", entry=None)])
    log.meters(*METERS)
    log.catalogue(entitlement(no, meter_no=1, customer_no=no, starts_at=LONG_AGO) for no in (2, 3))
    log.meters(*COUNTED.values())
    log.catalogue(ENTITLED)
    return log


@pytest.fixture(scope="module")
def ledger() -> dict[str, Sent]:
    """Every event that counts in the end, of all tests on this log."""
    return {}


@pytest.mark.timeout(300)  # a flow process a crash point, and a slow machine
def test_no_kill_between_two_lines_of_a_change_loses_or_doubles_anything(
    world: UsageLog, ledger: dict[str, Sent]
) -> None:
    rounds = [events_of(f"kill{number}", 30) for number in range(len(CRASH_POINTS))]
    world.send([event for events in rounds for event in events])
    with world.flow() as flow:
        world.wait_stored(flow)
    world.customers({"later": 3})
    for point, events in zip(CRASH_POINTS, rounds, strict=True):
        world.change(VOID, events[:12])
        world.change(REPLAY, events)
        world.change(VOID, events[6:18])
        flow_process = world.start_flow(crash_at=point)
        assert flow_process.wait(WAIT_SECONDS) == -signal.SIGKILL, f"{point} was not reached: {flow_process.logged()}"
        ledger |= {event.id: event for event in events[18:]}
    settle(world)
    check_exact(world, ledger)


def test_two_flows_on_one_shard_change_nothing_twice(world: UsageLog, ledger: dict[str, Sent]) -> None:
    world.customers({"later": 3})
    flows = [RunningFlow(world.settings) for _ in range(2)]
    deadline = time.monotonic() + WAIT_SECONDS
    number = 0
    while not any(flow.failure for flow in flows):
        assert time.monotonic() < deadline, "no flow was fenced"
        events = events_of(f"fence{number}", 20)
        world.send(events)
        world.change(VOID, events[::2])
        world.change(REPLAY, events)
        ledger |= {event.id: event for event in events[1::2]}
        number += 1
    for flow in flows:
        flow.stop()
    assert {type(flow.failure) for flow in flows} <= {Fenced, type(None)}
    settle(world)
    check_exact(world, ledger)


def test_a_change_finds_what_shards_of_another_layout_have_stored(world: UsageLog, ledger: dict[str, Sent]) -> None:
    first, second = events_of("layout1", 40), events_of("layout2", 40)
    world.send(first)
    store_under(world, shards=2)
    world.change(VOID, first[:10])
    world.send(second)
    store_under(world, shards=1)
    world.customers({"later": 3})
    world.change(VOID, [*first[10:20], *second[:20]])
    world.change(REPLAY, [*first, *second])
    store_under(world, shards=2)
    ledger |= {event.id: event for event in [*first[20:], *second[20:]]}
    settle(world)
    check_exact(world, ledger)


def store_under(log: UsageLog, *, shards: int) -> None:
    """Let so many flows store everything, and seed their counters."""
    flows = [
        RunningFlow(log.settings.model_copy(update={"flow_shards": shards, "flow_shard": shard}))
        for shard in range(shards)
    ]
    log.wait_stored(*flows)
    for flow in flows:
        flow.stop()
        flow.raise_failure()


def settle(log: UsageLog) -> None:
    """Let one flow store everything, also what it replays by itself."""

    def replayed() -> bool:
        flow.raise_failure()
        row = log.postgres.execute("SELECT replayed_version = version AS all FROM catalogue_head").fetchone()
        assert row is not None
        return row["all"]

    def all_counted() -> bool:
        flow.raise_failure()
        return len(counted(log, COUNTED, ENTITLED)) == len(ENTITLED)

    with log.flow() as flow:
        wait_for(replayed, "everything replayable is replayed")
        log.wait_stored(flow)
        wait_for(all_counted, "counters are seeded anew")


def check_exact(log: UsageLog, ledger: dict[str, Sent]) -> None:
    """Everything stored equals a ledger kept with nothing but dictionaries and fractions."""
    sums: dict[tuple[int, int, datetime, tuple[str, ...]], tuple[int, Fraction]] = {}
    values: dict[int, tuple[int, Fraction]] = {}
    for event in ledger.values():
        assert isinstance(event.data, dict)
        tokens = event.data["tokens"]
        minute, customer = minute_of(event.time), CUSTOMERS[event.subject]
        taken: list[tuple[int, tuple[str, ...], Fraction]] = [(2, (), Fraction(0))]
        if tokens is not None:
            taken.append((1, (f"={event.data['model']}",), Fraction(tokens)))
            count, units = values.get(customer, (0, Fraction(0)))
            values[customer] = (count + 1, units + Fraction(tokens))
        for meter_no, groups, value in taken:
            count, units = sums.get((meter_no, customer, minute, groups), (0, Fraction(0)))
            sums[meter_no, customer, minute, groups] = (count + 1, units + value)
    usage = {key: value for key, value in log.usage().items() if key[0] not in COUNTED}
    assert {key: value for key, value in usage.items() if value != (0, 0)} == sums
    rows = log.clickhouse.query(
        "SELECT customer_no, sum(effect), sum(effect * value) FROM usage_values FINAL WHERE meter_no = 3 GROUP BY 1"
    ).result_rows
    assert {customer: (count, units) for customer, count, units in rows} == values
    assert {event_id for event_id, (status, _, _) in log.events().items() if status == "counted"} == ledger.keys()
    for customer in (2, 3):
        expected = sum(units for (no, owner, _, _), (_, units) in sums.items() if (no, owner) == (1, customer))
        assert log.used(customer) == expected
    found = counted(log, COUNTED, ENTITLED)
    assert found == measured(log, COUNTED, ENTITLED, found)
    assert any(found.values())
