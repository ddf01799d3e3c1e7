"""Voids and replays travel on the log, and change exactly what they should: once, whatever comes in between."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra.kafka.changes import ChangeLog, change_messages
from infra.kafka.event_log import identity_hash, partition_of
from infra.postgres.catalogue import Change
from schemas.catalogue import EntryKind
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeKind
from schemas.meters import Aggregation
from tests.support.usage_log import Sent, UsageLog, entitlement, meter

VOID, REPLAY = ChangeKind.VOID, ChangeKind.REPLAY


@pytest.fixture(scope="module", autouse=True)
def customers(log: UsageLog) -> None:
    log.customers({"acme": 1, "beta": 2})


def store(log: UsageLog) -> None:
    """Let a flow store everything that is published."""
    with log.flow() as flow:
        log.wait_stored(flow)


def facts(log: UsageLog, event_id: str) -> list[tuple[str, str, int, int]]:
    """(status, code, customer, effect) of an event, in the order of its changes."""
    rows = log.clickhouse.query(
        "SELECT toString(status), code, customer_no, effect FROM events FINAL WHERE id = {id:String}"
        " ORDER BY received_at, kafka_offset, kafka_index, change_offset",
        parameters={"id": event_id},
    ).result_rows
    return [(status, code, customer_no, effect) for status, code, customer_no, effect in rows]


def test_a_void_takes_back_what_every_meter_took_and_a_second_one_nothing(log: UsageLog) -> None:
    log.meters(meter(10, event_type="void", group_by=("model",)))
    log.meters(meter(11, event_type="void", aggregation=Aggregation.COUNT, value=None))
    events = [Sent(id=f"v{n}", type="void", data={"tokens": f"{n}.1", "model": "m"}) for n in range(5)]
    log.send(events)
    log.change(VOID, events[:2])
    log.change(VOID, [*events[1:3], Sent(id="never sent"), Sent(id="v3", tenant_no=2)])
    store(log)
    log.change(VOID, events[:1])
    store(log)
    assert log.total(10) == (2, Decimal("7.2"))
    assert log.total(11)[0] == 2
    assert facts(log, "v0") == [("counted", "", 1, 1), ("voided", "", 1, -1)]
    assert [log.events()[f"v{n}"][0] for n in range(5)] == ["voided"] * 3 + ["counted"] * 2
    log.send(events[:1])
    store(log)
    assert facts(log, "v0")[-1][0] == "voided", "the id stays taken"
    assert log.total(11)[0] == 2


def test_a_void_gives_back_what_a_later_meter_took_and_skips_one_that_could_not_read_it(log: UsageLog) -> None:
    log.meters(meter(12, event_type="later", aggregation=Aggregation.COUNT, value=None))
    event = Sent(id="later", type="later", data={"tokens": "many", "n": 7})
    log.send([event])
    store(log)
    log.meters(meter(13, event_type="later"), meter(14, event_type="later", value="$.n"))
    log.change(VOID, [event])
    store(log)
    assert facts(log, "later") == [("counted", "", 1, 1), ("voided", "", 1, -1)]
    assert (log.total(12)[0], log.total(13)[0], log.total(14)) == (0, 0, (-1, Decimal(-7)))


def test_a_replay_judges_a_quarantined_event_anew_and_leaves_all_others(log: UsageLog) -> None:
    log.meters(meter(15, event_type="replay"))
    counted = Sent(id="fine", type="replay", data={"tokens": 1})
    bad = Sent(id="bad", type="replay", data={"tokens": "many", "n": 2})
    who = Sent(id="who", type="replay", subject="comes later", data={"tokens": 4})
    both = Sent(id="both", type="replay", subject="comes later", data={"tokens": "much"})
    log.send([counted, bad, who, both])
    store(log)
    log.change(REPLAY, [counted, bad, who])
    store(log)
    assert log.total(15) == (1, 1)
    assert facts(log, "who") == [("quarantined", "event.unknown_subject", 0, 0)]
    log.catalogue([Change(kind=EntryKind.METER, tenant_no=1, key="15:1", entry=None)])
    log.meters(meter(16, event_type="replay", value="$.n"))
    log.change(REPLAY, [bad])
    log.change(REPLAY, [bad])
    store(log)
    assert facts(log, "bad") == [("quarantined", "event.invalid_value", 1, 0), ("counted", "", 1, 1)]
    assert log.total(16) == (1, 2)


def test_a_quarantined_event_that_is_voided_is_never_replayed(log: UsageLog) -> None:
    event = Sent(id="gone", type="gone", subject="not yet")
    log.send([event])
    log.change(VOID, [event])
    store(log)
    log.customers({"not yet": 9})
    log.change(REPLAY, [event])
    store(log)
    assert facts(log, "gone") == [("quarantined", "event.unknown_subject", 0, 0), ("voided", "", 0, 0)]


def test_several_changes_of_one_event_within_one_batch_are_made_in_their_order(log: UsageLog) -> None:
    log.meters(meter(17, event_type="order"))
    event = Sent(id="order", type="order", subject="in time", data={"tokens": 3})
    log.send([event])
    store(log)
    log.customers({"in time": 5})
    for kind in (REPLAY, VOID, REPLAY, VOID):
        log.change(kind, [event])
    store(log)
    assert [fact[0] for fact in facts(log, "order")] == ["quarantined", "counted", "voided"]
    assert log.total(17) == (0, 0)


def test_each_first_copy_of_an_identity_is_changed(log: UsageLog) -> None:
    """It came again after the dedup window: then it counts again, and a void takes both back."""
    log.meters(meter(18, event_type="twice"))
    event = Sent(id="twice", type="twice", data={"tokens": 3})
    log.send([event])
    store(log)
    log.send([event])
    with log.flow(dedup_window_days=-1) as flow:
        log.wait_stored(flow)
    assert log.total(18) == (2, 6)
    log.change(VOID, [event])
    store(log)
    assert log.total(18) == (0, 0)
    assert sorted(fact[3] for fact in facts(log, "twice")) == [-1, -1, 1, 1]


def test_a_change_message_that_is_none_is_kept_aside_and_its_neighbours_are_made(log: UsageLog) -> None:
    log.meters(meter(19, event_type="poison"))
    event = Sent(id="poison", type="poison", data={"tokens": 3})
    log.send([event])
    identity = identity_hash(1, "api", "poison")
    (home, sound), *_ = change_messages(tenant_no=1, kind=VOID, identities=[identity], partitions=4)
    log.publish([(home, b"\x02broken"), ((home + 1) % 4, sound), (home, sound[:-1]), (home, sound)])
    store(log)
    assert log.total(19) == (0, 0)
    rows = log.postgres.execute("SELECT reason FROM poison_messages WHERE reason <> ''").fetchall()
    assert len(rows) == 3


def test_a_void_takes_from_counters_what_the_event_gave_to_them(log: UsageLog) -> None:
    """By the event's own time, to the microsecond, also of a counter that was seeded with it."""
    log.meters(meter(20, event_type="counter"))
    now = datetime.now(UTC)
    start = now.replace(second=30, microsecond=0) - timedelta(hours=1)
    times = [start - timedelta(seconds=1), start, start + timedelta(seconds=1), start + timedelta(minutes=5)]
    events = [Sent(id=f"k{n}", type="counter", data={"tokens": 10**n}, time=at) for n, at in enumerate(times)]
    late = Sent(id="k9", type="counter", data={"tokens": 50000}, time=start, subject="counter's")
    log.send([*events, late])
    log.catalogue([entitlement(20, meter_no=20, starts_at=start)])
    store(log)
    assert log.used(20) == 1110
    log.change(VOID, [events[0], events[1], events[3]])
    store(log)
    assert log.used(20) == 100
    log.customers({"counter's": 1})
    log.change(REPLAY, [late])
    store(log)
    assert log.used(20) == 50100


def test_more_changes_than_a_batch_holds_are_all_made(log: UsageLog) -> None:
    log.meters(meter(21, event_type="many", aggregation=Aggregation.COUNT, value=None))
    events = [Sent(id=f"many-{n}", type="many") for n in range(6 * MAX_CHANGES_A_MESSAGE)]
    log.send(events)
    changes = ChangeLog(log.settings.kafka_bootstrap, log.settings.events_topic, partitions=4)
    identities = [identity_hash(1, "api", event.id) for event in events[1:]]
    changes.publish(tenant_no=1, kind=VOID, identities=identities)
    parts = [partition_of(identity, 4) for identity in identities]
    log.messages += sum(-(-parts.count(partition) // MAX_CHANGES_A_MESSAGE) for partition in range(4))
    store(log)
    assert log.total(21)[0] == 1


def test_events_behind_a_change_in_their_partition_are_judged_after_it(log: UsageLog) -> None:
    log.meters(meter(22, event_type="mixed"))
    with log.flow() as flow:
        for number in range(20):
            events = [Sent(id=f"mixed-{number}-{n}", type="mixed", data={"tokens": 1}) for n in range(10)]
            log.send(events)
            log.change(VOID, events[::2])
            log.change(REPLAY, events[1::2])
        log.wait_stored(flow)
    assert log.total(22) == (100, 100)
