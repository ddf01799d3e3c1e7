"""The whole flow on real stores: each event of the log is judged, kept and counted exactly once."""

import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra.postgres.catalogue import Change
from infra.postgres.shards import counters_as_of, usage_as_of
from schemas.catalogue import EntryKind
from schemas.errors import Fenced, InvariantBroken
from schemas.meters import Aggregation
from tests.support.usage_log import NOON, RunningFlow, Sent, UsageLog, entitlement, meter, wait_for


@pytest.fixture(scope="module", autouse=True)
def customers(log: UsageLog) -> None:
    log.customers({"acme": 1, "beta": 2})


#: A sender of bursts: partitions are drained in between, and the next burst comes before the answer is looked at.
PAUSE_SECONDS = 0.1
BURST = 12


def test_a_copy_counts_for_nothing_in_its_batch_in_the_next_and_after_a_restart(log: UsageLog) -> None:
    log.meters(meter(10, event_type="copies"))
    first = [Sent(id=f"c{index}", type="copies", data={"tokens": 1}) for index in range(100)]
    copy = Sent(id="c0", type="copies", data={"tokens": 1000})
    log.send([*first, copy, copy])
    with log.flow() as flow:
        log.wait_stored(flow)
        log.send([copy])
        log.wait_stored(flow)
    log.send([Sent(id="c0", type="another", data={}, time=NOON - timedelta(days=9))])
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.total(10) == (100, 100)
    assert log.events()["c0"] == ("counted", "", 1)
    assert log.copies() == [("c0", '{"tokens": 1000}')] * 3 + [("c0", "{}")]


def test_the_same_id_of_another_source_or_tenant_is_another_event(log: UsageLog) -> None:
    log.meters(meter(11, event_type="identity", aggregation=Aggregation.COUNT, value=None))
    log.meters(meter(12, event_type="identity", aggregation=Aggregation.COUNT, value=None), tenant_no=2)
    log.customers({"acme": 3}, tenant_no=2)
    log.send([Sent(id="i", type="identity"), Sent(id="i", type="identity", source="b")])
    log.send([Sent(id="i", type="identity", tenant_no=2)])
    with log.flow() as flow:
        log.wait_stored(flow)
    assert (log.total(11)[0], log.total(12)[0]) == (2, 1)
    log.clickhouse.command("TRUNCATE TABLE events")  # ids repeat on purpose here; the other tests look by id


def test_values_are_exact_at_any_magnitude_and_late_events_are_ordinary(log: UsageLog) -> None:
    log.meters(meter(13, event_type="exact"))
    values = ["0.000000000001", "-3", '"99999999999999999999999999999999999999"', "-0.5", "1e37", "0.1", "0.2"]
    log.send([
        Sent(id=f"x{index}", type="exact", data=f'{{"tokens": {value}}}', time=NOON - timedelta(days=index * 40))
        for index, value in enumerate(values)
    ])  # fmt: skip
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.total(13) == (7, Decimal("109999999999999999999999999999999999995.800000000001"))


def test_every_event_is_kept_with_what_became_of_it(log: UsageLog) -> None:
    log.meters(meter(14, event_type="states"))
    log.send([
        Sent(id="good", type="states", data='{\n  "tokens": 1\n}', extensions='{"reservation":"r"}'),
        Sent(id="null", type="states", data={"tokens": None}),
        Sent(id="bad", type="states", data={"tokens": True}),
        Sent(id="who", type="states", subject="nobody"),
        Sent(id="no meter", type="nothing.looks"),
    ])  # fmt: skip
    with log.flow() as flow:
        log.wait_stored(flow)
    found = log.events()
    assert [found[name] for name in ("good", "null", "bad", "who", "no meter")] == [
        ("counted", "", 1),
        ("counted", "", 1),
        ("quarantined", "event.invalid_value", 1),
        ("quarantined", "event.unknown_subject", 0),
        ("unmatched", "", 1),
    ]
    kept = log.clickhouse.query("SELECT data, extensions, occurred_at FROM events FINAL WHERE id = 'good'").result_rows
    assert kept == [('{\n  "tokens": 1\n}', '{"reservation":"r"}', NOON.replace(tzinfo=None))]
    assert log.total(14) == (1, 1)


def test_a_message_that_is_no_batch_is_kept_aside_and_its_neighbours_count(log: UsageLog) -> None:
    log.meters(meter(15, event_type="poison"))
    log.send([Sent(id="before", type="poison", data={"tokens": 1})])
    log.publish([(0, b"\x01garbage"), (0, b""), (1, b"\x02")])
    log.send([Sent(id="after", type="poison", data={"tokens": 1})])
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.total(15) == (2, 2)
    rows = log.postgres.execute("SELECT message, reason FROM poison_messages ORDER BY message").fetchall()
    assert [row["message"] for row in rows] == [b"", b"\x01garbage", b"\x02"]
    assert all(row["reason"] for row in rows)


def test_a_customer_made_while_the_flow_runs_has_every_later_event(log: UsageLog) -> None:
    log.meters(meter(16, event_type="fresh"))
    with log.flow() as flow:
        for number in range(5):
            log.customers({f"fresh-{number}": 50 + number})
            log.send([Sent(id=f"fresh-{number}", type="fresh", subject=f"fresh-{number}", data={"tokens": 1})])
        log.wait_stored(flow)
    assert log.total(16) == (5, 5)


def test_everything_acknowledged_before_as_of_is_in_the_answer(log: UsageLog) -> None:
    log.meters(meter(17, event_type="honest", aggregation=Aggregation.COUNT, value=None))
    topic, partitions = log.settings.events_topic, log.settings.events_partitions
    acknowledged: list[datetime] = []
    enough = threading.Event()

    def send() -> None:
        while not enough.is_set():
            number = len(acknowledged)
            log.send([Sent(id=f"honest-{number + index}", type="honest") for index in range(BURST)])
            acknowledged.extend([datetime.now(UTC)] * BURST)
            enough.wait(PAUSE_SECONDS)

    with log.flow() as flow:
        sender = threading.Thread(target=send)
        sender.start()
        seen: set[datetime] = set()

        def ten_answers_are_honest() -> bool:
            flow.raise_failure()
            as_of = usage_as_of(log.postgres, topic=topic, partitions=partitions)
            if as_of is not None:
                counted, _ = log.total(17)
                assert counted >= sum(at < as_of for at in list(acknowledged))
                seen.add(as_of)
            return len(seen) >= 8

        try:
            wait_for(ten_answers_are_honest, "as_of moves on while events come")
        finally:
            enough.set()
            sender.join()
        log.wait_stored(flow)
        done = datetime.now(UTC)

        def both_have_passed() -> bool:
            flow.raise_failure()
            usage = usage_as_of(log.postgres, topic=topic, partitions=partitions)
            counters = counters_as_of(log.postgres, topic=topic, partitions=partitions)
            return None not in (usage, counters) and min(usage or done, counters or done) > done

        wait_for(both_have_passed, "as_of advances while nothing comes")


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


def test_two_flows_on_one_shard_are_fenced_from_each_other_and_nothing_counts_twice(log: UsageLog) -> None:
    log.meters(meter(21, event_type="fence"))
    flows = [RunningFlow(log.settings) for _ in range(2)]
    sent = 0
    deadline = time.monotonic() + 30
    while not any(flow.failure for flow in flows):
        assert time.monotonic() < deadline, "no flow was fenced"
        log.send([Sent(id=f"fence-{sent}-{index}", type="fence", data={"tokens": 1}) for index in range(20)])
        sent += 20
    for flow in flows:
        flow.stop()
    assert {type(flow.failure) for flow in flows} <= {Fenced, type(None)}
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.total(21) == (sent, sent)


def test_a_flow_that_nothing_comes_to_stops_when_another_owner_has_gone_on(log: UsageLog) -> None:
    """It stood still, perhaps, and would seed counters with what it found in ClickHouse before that."""
    flow = RunningFlow(log.settings)
    log.send([Sent(id="before the other")])
    log.wait_stored(flow)
    log.postgres.execute("UPDATE shards SET next_seq = next_seq + 1")
    wait_for(lambda: flow.failure is not None, "the flow stops")
    assert isinstance(flow.failure, Fenced)


def test_a_topic_that_does_not_exist_stops_the_flow_at_once(log: UsageLog) -> None:
    flow = RunningFlow(log.settings.model_copy(update={"events_topic": "nowhere"}))
    wait_for(lambda: flow.failure is not None, "the flow stops")
    assert isinstance(flow.failure, InvariantBroken)
    assert flow.failure.code == "topic.missing"


def test_a_new_layout_of_shards_waits_for_what_the_old_one_left_pending(log: UsageLog) -> None:
    with log.flow() as flow:
        log.send([Sent(id="old layout")])
        log.wait_stored(flow)  # now partition 1 is the old layout's, whatever test ran before this one
    log.postgres.execute(
        "INSERT INTO intents (shard, seq, ranges, catalogue_version, state, created_at)"
        " VALUES (0, 1000000, '[[1, 0, 0]]', 1, 'pending', now())"
    )
    flow = RunningFlow(log.settings.model_copy(update={"flow_shards": 2, "flow_shard": 1}))
    try:
        wait_for(lambda: flow.failure is not None, "the flow stops")
    finally:
        flow.stop()
        log.postgres.execute("DELETE FROM intents WHERE seq = 1000000")
    assert isinstance(flow.failure, InvariantBroken)
    assert flow.failure.code == "shard.unfinished"


def test_a_subject_that_was_taken_away_is_unknown_again(log: UsageLog) -> None:
    log.customers({"leaver": 9})
    log.catalogue([Change(kind=EntryKind.SUBJECT, tenant_no=1, key="leaver", entry=None)])
    log.send([Sent(id="left", subject="leaver")])
    with log.flow() as flow:
        log.wait_stored(flow)
    assert log.events()["left"] == ("quarantined", "event.unknown_subject", 0)


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
