"""Somebody hears of quarantined events; with a cap, a flow stops before it sets too many aside."""

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from flows.attribute import attribute
from flows.attributed import Attributed
from flows.quarantine import QuarantineCap
from infra.kafka.consumer import LogReader
from infra.postgres.quarantine import Recent
from schemas.errors import InvariantBroken
from schemas.topics import SystemEvent, SystemEventMessage
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import WAIT_SECONDS, RunningFlow, Sent, UsageLog, meter, wait_for

CAP = {"quarantine_max_percent": 20, "quarantine_min_events": 100}


@pytest.fixture(scope="module", autouse=True)
def customers(log: UsageLog) -> None:
    log.customers({"acme": 1})


def next_offsets(log: UsageLog) -> int:
    row = log.postgres.execute("SELECT sum(next_offset)::bigint AS n FROM shard_offsets").fetchone()
    assert row is not None
    return row["n"]


def told_of(log: UsageLog) -> list[SystemEventMessage]:
    """Everything on the topic of system events, once the outbox is empty."""

    def relayed() -> bool:
        row = log.postgres.execute("SELECT count(*) AS n FROM outbox").fetchone()
        assert row is not None
        return row["n"] == 0

    with log.flow() as flow:
        wait_for(lambda: (flow.raise_failure(), relayed())[1], "the outbox is relayed")
    with LogReader(log.settings.kafka_bootstrap, log.settings.system_topic) as reader:
        end = reader.end_offsets([0])[0]
    consumer = Consumer({"bootstrap.servers": log.settings.kafka_bootstrap, "group.id": "told"})
    consumer.assign([TopicPartition(log.settings.system_topic, 0, 0)])
    found: list[SystemEventMessage] = []

    def all_read() -> bool:
        for message in consumer.consume(100, 0.1):
            value = message.value()
            assert value is not None
            found.append(msgspec.json.decode(value, type=SystemEventMessage))
        return len(found) >= end

    wait_for(all_read, "the system events are read")
    consumer.close()
    return [event for event in found if event.type == SystemEvent.EVENT_QUARANTINED]


def test_each_batch_tells_a_tenant_once_a_reason_with_a_few_of_the_events(log: UsageLog) -> None:
    row = log.postgres.execute(
        "INSERT INTO tenants (id, name, created_at) VALUES ('ten_told', 'Told', now()) RETURNING no"
    ).fetchone()
    assert row is not None
    tenant_no: int = row["no"]
    log.meters(meter(40, event_type="told"), tenant_no=tenant_no)
    log.customers({"known": 8}, tenant_no=tenant_no)
    home = [Sent(id=f"told-{n}", tenant_no=tenant_no, type="told", subject="nobody") for n in range(60)]
    bad = Sent(id="told-bad", source="s", tenant_no=tenant_no, type="told", subject="known", data={"tokens": "x"})
    with log.flow() as flow:
        log.send([*home, bad, Sent(id="nobody's", tenant_no=tenant_no + 99)])
        log.wait_stored(flow)
    told = told_of(log)
    assert {(event.tenant_id, event.object_id) for event in told} == {("ten_told", "ten_told")}
    unknown = [event.data for event in told if event.data["code"] == "event.unknown_subject"]
    assert sum(data["count"] for data in unknown) == 60
    assert all(len(data["events"]) == min(data["count"], 10) for data in unknown)
    assert {event["id"] for data in unknown for event in data["events"]} <= {event.id for event in home}
    (invalid,) = [event.data for event in told if event.data["code"] == "event.invalid_value"]
    assert invalid == {"code": "event.invalid_value", "count": 1, "events": [{"source": "s", "id": "told-bad"}]}


def test_a_flow_stops_before_it_quarantines_more_than_its_share_and_goes_on_once_it_is_mended(log: UsageLog) -> None:
    log.meters(meter(41, event_type="cap"))
    with log.flow(**CAP) as flow:
        log.send([Sent(id=f"cap-good-{n}", type="cap", data={"tokens": 1}) for n in range(100)])
        log.wait_stored(flow)
        log.send([Sent(id=f"cap-few-{n}", type="cap", subject="capped") for n in range(10)])
        log.wait_stored(flow)
    before = next_offsets(log)
    sent = [Sent(id=f"cap-{n}", type="cap", subject="capped", data={"tokens": 1}) for n in range(400)]
    by_hundred = [sent[start : start + 100] for start in range(0, 400, 100)]
    for part in by_hundred:
        log.send(part)
    for _ in range(2):
        flow = RunningFlow(log.settings.model_copy(update=CAP))
        wait_for(lambda flow=flow: flow.failure is not None, "the flow stops", WAIT_SECONDS)
        assert isinstance(flow.failure, InvariantBroken)
        assert flow.failure.code == "flow.too_many_quarantined"
        assert "event.unknown_subject" in flow.failure.detail
        assert "METERLINE_QUARANTINE_MAX_PERCENT" in flow.failure.detail
    quarantined = [name for name, (status, _, _) in log.events().items() if status == "quarantined" and "cap-" in name]
    assert len(quarantined) <= 0.2 * (210 + len(quarantined))
    assert next_offsets(log) - before <= 2, "at most what fits the share is taken off the log"
    log.customers({"capped": 3})
    with log.flow(**CAP) as flow:
        log.wait_stored(flow)
    found = {name: status for name, (status, _, _) in log.events().items() if name.startswith("cap-")}
    assert len(found) == 510
    assert all(found[event.id] == "counted" for event in sent if event.id not in quarantined)


def test_the_share_is_of_recent_events_and_a_batch_within_it_always_passes() -> None:
    cap = QuarantineCap(max_percent=50, min_events=10)
    catalogue = catalogue_of([], {"acme": 1})

    def batch(good: int, bad: int) -> Attributed:
        events = [Sent(id=f"g{n}") for n in range(good)] + [Sent(id=f"b{n}", subject="nobody") for n in range(bad)]
        return attribute(columns(events), catalogue)

    assert cap.admit(Recent(0, 0), batch(0, 9)) == (9, 9), "too few to judge by"
    assert cap.admit(Recent(10, 5), batch(1, 1)) == (12, 6)
    assert cap.admit(Recent(10, 9), batch(2, 2)) == (14, 11), "it keeps to the share itself"
    assert cap.admit(Recent(20, 10), batch(1, 0)) == (10, 5), "the past is forgotten by halves"
    with pytest.raises(InvariantBroken):
        cap.admit(Recent(10, 5), batch(1, 2))
    assert not QuarantineCap(max_percent=100, min_events=1).is_set
