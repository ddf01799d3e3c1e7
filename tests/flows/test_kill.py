"""kill -9 between any two lines of the sink changes no sum, no count, no counter, no raw row, no judgement."""

import random
import signal
from datetime import UTC, timedelta
from fractions import Fraction

from schemas.counters import COUNTED_BY
from schemas.meters import Aggregation
from tests.support.counters import counted, measured
from tests.support.usage_log import NOON, WAIT_SECONDS, Sent, UsageLog, entitlement, meter, minute_of

CRASH_POINTS = [
    "sink.before_commit",
    "sink.in_transaction",
    "sink.advanced",
    "sink.before_inserts",
    "sink.redoing",
    "sink.usage_inserted",
    "sink.events_inserted",
    "sink.committed",
]
LONG_AGO = NOON - timedelta(days=400)
#: Meters of all aggregations that are counted, and an entitlement to each.
COUNTED = {no: meter(no, aggregation=each) for no, each in enumerate(sorted(COUNTED_BY), 50)}
ENTITLED = [entitlement(no, meter_no=no, customer_no=2, starts_at=LONG_AGO) for no in COUNTED]


def traffic(round_number: int) -> list[Sent]:
    """Events of three customers over three minutes; some sent before, some twice in one request, some odd."""
    random_source = random.Random(round_number)
    events = [
        Sent(
            id=f"r{round_number}-{index}",
            subject=random_source.choice(["acme", "beta", "gamma"]),
            time=NOON + timedelta(seconds=random_source.randrange(180)),
            data={"tokens": random_source.choice([1, -2, "2.5", 10**30, None]), "model": random_source.choice("ab")},
        )
        for index in range(120)
    ]
    again = [
        Sent(id=f"r{earlier}-{index}", data={"tokens": 999}) for earlier in range(round_number) for index in (3, 5)
    ]
    return [*events, *again, *events[:10], Sent(id=f"bad-{round_number}", data={"tokens": "many"})]


def test_no_kill_between_two_lines_of_the_sink_loses_or_doubles_anything(log: UsageLog) -> None:
    log.customers({"acme": 1, "beta": 2, "gamma": 3})
    log.meters(meter(1, group_by=("model",)), meter(2, aggregation=Aggregation.COUNT, value=None))
    log.meters(
        meter(3, aggregation=Aggregation.LATEST, group_by=("model",)), meter(4, aggregation=Aggregation.UNIQUE_COUNT)
    )
    log.catalogue([entitlement(7, meter_no=1, customer_no=2, starts_at=LONG_AGO)])
    log.meters(*COUNTED.values())
    log.catalogue(ENTITLED)
    sent: list[Sent] = []
    for number, point in enumerate(CRASH_POINTS):
        events = traffic(number)
        log.send(events)
        sent += events
        flow = log.start_flow(crash_at=point)
        assert flow.wait(WAIT_SECONDS) == -signal.SIGKILL, f"{point} was not reached: {flow.logged()}"
    with log.flow() as flow:
        log.wait_stored(flow)
    check_exact(log, sent)
    found = counted(log, COUNTED, ENTITLED)
    assert found == measured(log, COUNTED, ENTITLED, found)
    assert len(found) == len(ENTITLED)
    assert all(found.values())


def test_a_batch_stored_again_is_judged_by_the_catalogue_of_the_first_time(log: UsageLog) -> None:
    log.customers({"mover": 21})
    log.meters(meter(21, event_type="moving"))
    log.send([Sent(id="moving", type="moving", subject="mover", data={"tokens": 1})])  # one message is one batch
    flow = log.start_flow(crash_at="sink.usage_inserted")
    assert flow.wait(WAIT_SECONDS) == -signal.SIGKILL, flow.logged()
    log.customers({"mover": 22})
    log.meters(meter(21, event_type="moving", value="$.other"), meter(22, event_type="moving"))
    with log.flow() as running:
        log.wait_stored(running)
    found = {key[:2]: value for key, value in log.usage().items() if key[0] in (21, 22)}
    assert found == {(21, 21): (1, 1)}
    assert log.events()["moving"] == ("counted", "", 21)


def check_exact(log: UsageLog, sent: list[Sent]) -> None:
    """Everything stored equals a ledger kept with nothing but dictionaries and fractions."""
    first: dict[str, Sent] = {}
    for event in sent:
        first.setdefault(event.id, event)
    numbers = {"acme": 1, "beta": 2, "gamma": 3}
    sums: dict[tuple[int, int, object, tuple[str, ...]], tuple[int, Fraction]] = {}
    for event in first.values():
        assert isinstance(event.data, dict)
        tokens = event.data.get("tokens")
        if tokens == "many":
            continue
        minute, customer = minute_of(event.time), numbers[event.subject]
        taken = [(1, (f"={event.data['model']}",), Fraction(tokens))] if tokens is not None else []
        for meter_no, groups, value in [*taken, (2, (), Fraction(0))]:
            count, total = sums.get((meter_no, customer, minute, groups), (0, Fraction(0)))
            sums[meter_no, customer, minute, groups] = (count + 1, total + value)
    assert {key: value for key, value in log.usage().items() if key[0] not in COUNTED} == sums
    assert values_of(log) == sorted(
        value
        for event in first.values()
        if isinstance(event.data, dict) and event.data["tokens"] not in (None, "many")
        for customer, tokens in [(numbers[event.subject], event.data["tokens"])]
        for value in [
            (3, customer, event.time, (f"={event.data['model']}",), 1, Fraction(tokens), ""),
            (4, customer, event.time, (), 1, Fraction(0), f"={tokens}"),
        ]
    )
    stored = log.events()
    assert stored.keys() == first.keys()
    assert {event_id for event_id, (status, _, _) in stored.items() if status == "quarantined"} == {
        event_id for event_id in first if event_id.startswith("bad")
    }
    assert len(log.copies()) == len(sent) - len(first)
    used = sum(total for (meter_no, customer, _, _), (_, total) in sums.items() if (meter_no, customer) == (1, 2))
    assert log.used(7) == used


def values_of(log: UsageLog) -> list[tuple[object, ...]]:
    """(meter, customer, time, groups, effect, value, text) of every value; one that is stored twice is there twice."""
    rows = log.clickhouse.query(
        "SELECT meter_no, customer_no, occurred_at, group_values, effect, value, text FROM usage_values FINAL"
        " WHERE meter_no IN (3, 4)"
    ).result_rows
    return sorted(
        (meter_no, customer, at.replace(tzinfo=UTC), tuple(groups), effect, Fraction(value), text)
        for meter_no, customer, at, groups, effect, value, text in rows
    )
