"""Rows of counters, on real stores: what they start from, when they are left, and what a change of the layout does."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.meters import Aggregation
from tests.support.usage_log import RunningFlow, Sent, UsageLog, entitlement, meter, wait_for


@pytest.fixture(scope="module", autouse=True)
def customers(log: UsageLog) -> None:
    log.customers({"acme": 1, "beta": 2})


@pytest.mark.parametrize(("meter_no", "counts"), [(18, False), (19, True)])
def test_a_counter_starts_from_what_is_stored_and_ends_at_its_period_to_the_microsecond(
    log: UsageLog, meter_no: int, counts: bool
) -> None:
    kind = f"counter-{meter_no}"
    fields = {"aggregation": Aggregation.COUNT, "value": None} if counts else {}
    log.meters(meter(meter_no, event_type=kind, **fields))
    now = datetime.now(UTC)
    start = now.replace(minute=17, second=31, microsecond=500_000) - timedelta(hours=2)
    times = [start - timedelta(microseconds=1), start, start + timedelta(seconds=3), start + timedelta(minutes=9)]
    before = [Sent(id=f"{kind}-{i}", type=kind, data={"tokens": 10**i}, time=at) for i, at in enumerate(times)]
    after = [Sent(id=f"{kind}-after-{i}", type=kind, data={"tokens": 5}, time=at) for i, at in enumerate(times)]
    with log.flow() as flow:
        log.send(before)
        log.wait_stored(flow)
        log.catalogue([entitlement(meter_no, meter_no=meter_no, starts_at=start)])
        wait_for(lambda: log.used(meter_no) is not None, "an idle flow seeds the counter")
        assert log.used(meter_no) == (3 if counts else 1110)
        log.send(after)
        log.wait_stored(flow)
    assert log.used(meter_no) == (6 if counts else 1125)
    log.catalogue([entitlement(meter_no + 100, meter_no=meter_no, starts_at=start)])
    log.send([Sent(id=f"{kind}-last", type=kind, data={"tokens": 7}, time=start)])
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.used(meter_no) == log.used(meter_no + 100) == (7 if counts else 1132)


def test_a_counter_starts_with_what_is_still_on_its_way_to_clickhouse(log: UsageLog) -> None:
    log.meters(meter(24, event_type="on.its.way"))
    now = datetime.now(UTC)
    with log.flow(flow_insert_ms=60_000) as flow:
        log.send([Sent(id="stored", type="on.its.way", time=now, data={"tokens": 1})])
        log.wait_stored(flow)
        log.send([Sent(id="waiting", type="on.its.way", time=now, data={"tokens": 10})])
        wait_for(lambda: log.pending() == 1, "the second batch waits for its insert")
        log.catalogue([entitlement(24, meter_no=24, starts_at=now - timedelta(days=1))])
        wait_for(lambda: log.used(24) is not None, "the counter is seeded")
    assert log.used(24) == 11


def test_a_counter_that_was_left_and_is_counted_again_has_what_came_meanwhile(log: UsageLog) -> None:
    log.meters(meter(25, event_type="left"))
    now = datetime.now(UTC)
    endless = entitlement(25, meter_no=25, starts_at=now - timedelta(days=40))
    ended = entitlement(25, meter_no=25, starts_at=now - timedelta(days=40), ends_at=now - timedelta(days=31))
    with log.flow() as flow:
        for number, (change, used) in enumerate([(endless, 1), (ended, None), (endless, 111)]):
            log.catalogue([change])
            log.send([Sent(id=f"left-{number}", type="left", time=now, data={"tokens": 10**number})])
            log.wait_stored(flow)
            wait_for(lambda used=used: log.used(25) == used, "the counter is left, and seeded anew")


def put_counter(
    log: UsageLog, no: int, start: datetime, *, shard: int = 0, shards: int = 1, stale: bool = False
) -> None:
    """A row as an earlier flow has left it."""
    log.postgres.execute(
        "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, shards, used, is_stale, meter_revision,"
        " version) VALUES (%s, %s, %s, %s, 7, %s, 1, 0)",
        (no, start, shard, shards, stale),
    )


def stale_of(log: UsageLog, no: int) -> dict[tuple[datetime, int], bool]:
    """Which rows of an entitlement are stale, by start and shard."""
    rows = log.postgres.execute(
        "SELECT period_start, shard, is_stale FROM entitlement_counters WHERE entitlement_no = %s", (no,)
    )
    return {(row["period_start"], row["shard"]): row["is_stale"] for row in rows}


def test_a_flow_that_starts_over_leaves_what_one_before_it_counted_by_a_clock_that_was_ahead(log: UsageLog) -> None:
    log.meters(meter(26, event_type="left"))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    log.catalogue([entitlement(26, meter_no=26, starts_at=hour - timedelta(hours=3), reset="hour")])
    ahead = hour + timedelta(hours=5)
    put_counter(log, 26, ahead)
    with log.flow() as flow:
        log.send([Sent(id="anew", type="left", time=hour)])
        log.wait_stored(flow)
        wait_for(lambda: stale_of(log, 26)[ahead, 0], "it misses what came between")
    assert not stale_of(log, 26)[hour, 0]


def test_a_late_event_moves_the_counter_of_the_period_before_and_of_none_before_that(log: UsageLog) -> None:
    log.meters(meter(20, event_type="past"))
    now = datetime.now(UTC)
    log.catalogue([entitlement(20, meter_no=20, starts_at=now - timedelta(days=400), reset="month")])
    before = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(microseconds=1)
    times = [now, before, before - timedelta(days=1), now - timedelta(days=70)]
    log.send([Sent(id=f"past-{n}", type="past", data={"tokens": 1}, time=time) for n, time in enumerate(times)])
    with log.flow() as flow:
        log.wait_stored(flow)
    rows = log.postgres.execute("SELECT used FROM entitlement_counters WHERE entitlement_no = 20 ORDER BY period_start")
    assert [row["used"] for row in rows] == [2, 1, 0]


def test_a_counter_has_what_former_shards_stored_once_whatever_the_layout_was(log: UsageLog) -> None:
    log.meters(meter(27, event_type="layout"))
    start = datetime.now(UTC).replace(second=30, microsecond=0) - timedelta(hours=2)
    sent = 0

    def store(shards: int) -> None:
        """Ten events, whole minutes and parts of them, under a layout of so many flows."""
        nonlocal sent
        times = [start + timedelta(seconds=n) for n in (0, 20, 40, 60, 80, 100, 120, 140, 160, 180)]
        log.send([
            Sent(id=f"layout-{sent}-{n}", type="layout", data={"tokens": 1}, time=at) for n, at in enumerate(times)
        ])  # fmt: skip
        sent += len(times)
        flows = [RunningFlow(log.settings.model_copy(update={"flow_shards": shards, "flow_shard": n}))
                 for n in range(shards)]  # fmt: skip
        log.wait_stored(*flows)

        def seeded_by_all() -> bool:
            for flow in flows:
                flow.raise_failure()
            rows = log.postgres.execute(
                "SELECT entitlement_no FROM entitlement_counters WHERE entitlement_no IN (27, 28) AND shard < %s",
                (shards,),
            ).fetchall()
            return len(rows) == shards * known

        wait_for(seeded_by_all, "the counters are seeded")
        for flow in flows:
            flow.stop()

    known = 0
    store(2)
    log.catalogue([entitlement(27, meter_no=27, starts_at=start)])
    known = 1
    store(1)
    assert log.used(27) == sent == 20
    store(2)
    assert log.used(27) == sent
    log.catalogue([entitlement(28, meter_no=27, starts_at=start)])
    known = 2
    store(1)
    assert log.used(27) == log.used(28) == sent == 40


def test_what_a_shard_left_before_there_were_fewer_keeps_no_counter_from_being_used(log: UsageLog) -> None:
    log.meters(meter(29, event_type="fewer"))
    start = datetime.now(UTC).replace(microsecond=0)
    put_counter(log, 29, start, shard=1, shards=2, stale=True)
    log.catalogue([entitlement(29, meter_no=29, starts_at=start)])
    with log.flow() as flow:
        log.send([Sent(id="one is left", type="fewer", time=start, data={"tokens": 5})])
        log.wait_stored(flow)
        wait_for(lambda: log.used(29) == 5, "it is counted")
    assert stale_of(log, 29) == {(start, 0): False}


def test_a_shard_that_joins_misses_nothing_that_comes_while_its_counters_begin(
    log: UsageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.counting.SEEDS_AT_ONCE", 1)
    log.meters(meter(30, event_type="joins"))
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    numbers = range(31, 37)
    sent = 0

    def send(*flows: RunningFlow) -> None:
        nonlocal sent
        log.send([Sent(id=f"joins-{sent}-{n}", type="joins", time=start, data={"tokens": 1}) for n in range(12)])
        log.wait_stored(*flows)
        sent += 12

    for shards in (2, 1, 2):
        flows = [RunningFlow(log.settings.model_copy(update={"flow_shards": shards, "flow_shard": n}))
                 for n in range(shards)]  # fmt: skip
        for _ in range(3):
            send(*flows)
        if shards == 1:
            log.catalogue([entitlement(number, meter_no=30, starts_at=start) for number in numbers])
        if sent > 36:
            keys = {(start, n) for n in range(shards)}
            wait_for(lambda keys=keys: all(stale_of(log, n).keys() == keys for n in numbers), "all are seeded")
            assert [log.used(number) for number in numbers] == [sent] * 6
        for flow in flows:
            flow.stop()
