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
from tests.support.usage_log import NOON, RunningFlow, Sent, UsageLog, meter, wait_for


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
