"""The proof compares stored windows with raw events as the flow judges them, whatever the meter filters by."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra.clickhouse import proof
from infra.clickhouse.client import Client, connect
from infra.clickhouse.proof import Counted, prove_windows
from infra.clickhouse.usage_query import Span
from infra.migrate import migrate_clickhouse
from infra.settings import Settings
from schemas.catalogue import MeterEntry
from schemas.matching import event_text, event_value, matches, parse_data
from schemas.meters import Aggregation, Filter, FilterOperator
from tests.support.billing import EVENT_COLUMNS
from tests.support.stack import fresh_databases

START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN_END = START + timedelta(days=31)
SEQS = {0: 1_000}
EVENTS = [
    '{"tokens":1,"region":"eu","beta":true,"size":1}',
    '{"tokens":"2.5","region":"us","beta":false,"size":1.0}',
    '{"tokens":3e2,"region":"e\\u0075","beta":"true","size":"1"}',
    '{"tokens":0.30000000000000004,"region":null,"size":1e0}',
    '{"tokens":null,"region":"eu","beta":true,"size":2.50}',
    '{"region":"eu","size":12345678901234567890123}',
    '{"tokens":-4,"region":"eu","nested":{"region":"eu"},"size":2.5}',
]
customers = itertools.count(1)


@pytest.fixture(scope="module")
def client(stack: Settings) -> Iterator[Client]:
    made = connect(fresh_databases(stack).clickhouse_url)
    migrate_clickhouse(made)
    yield made
    made.close()


def meter_of(*filters: Filter, aggregation: Aggregation = Aggregation.SUM, value: str = "$.tokens") -> MeterEntry:
    return MeterEntry(
        meter_no=1,
        revision=1,
        event_type="llm",
        aggregation=aggregation,
        value=None if aggregation is Aggregation.COUNT else value,
        filters=filters,
        group_by=(),
    )


def rule(name: str, *values: str) -> Filter:
    return Filter(property=name, op=FilterOperator.IN, values=values)


def store_events(
    client: Client, customer_no: int, events: list[str], *, seq: int = 1, offset: int = 0, identity: bytes | None = None
) -> None:
    rows = [
        [
            *(
                1,
                identity or f"{customer_no:08}{seq:04}{n:04}".encode(),
                0,
                offset + n,
                0,
                0,
                seq,
                START,
                START + timedelta(hours=n),
            ),
            *("api", "e", "llm", "s", data, "", customer_no, "counted", ""),
        ]
        for n, data in enumerate(events)
    ]
    client.insert("events", rows, column_names=EVENT_COLUMNS)


def store_window(client: Client, customer_no: int, count: int, total: Decimal, seq: int = 1, meter_no: int = 1) -> None:
    client.insert("usage_minutes", [[meter_no, 1, customer_no, START, [], 0, seq, count, total]])


def judged(meter: MeterEntry, events: list[str]) -> Counted:
    parsed = [parse_data(text) for text in events]
    values = [event_value(meter, data) for data in parsed if matches(meter, data)]
    taken = [value for value in values if value is not None]
    is_count = meter.aggregation is Aggregation.COUNT
    return Counted(len(taken), Decimal(0) if is_count else sum(taken, Decimal(0)))


def prove(client: Client, meter: MeterEntry, customer_no: int) -> dict[Span, str]:
    span = Span(customer_no=customer_no, meter_no=meter.meter_no, start=START, end=SPAN_END)
    return prove_windows(client, tenant_no=1, meter=meter, spans=[span], stored_seqs=SEQS)


METERS = {
    "all": meter_of(),
    "count": meter_of(aggregation=Aggregation.COUNT),
    "text": meter_of(rule("$.region", '"eu"')),
    "texts": meter_of(rule("$.region", '"eu"', '"us"')),
    "flag": meter_of(rule("$.beta", "true"), aggregation=Aggregation.COUNT),
    "number": meter_of(rule("$.size", "1"), aggregation=Aggregation.COUNT),
    "kinds": meter_of(rule("$.size", '"1"', "2.5"), aggregation=Aggregation.COUNT),
    "both": meter_of(rule("$.region", '"eu"'), rule("$.beta", "true")),
    "nested": meter_of(rule("$.nested.region", '"eu"')),
    "spaced": meter_of(value=" $.tokens "),
}


@pytest.mark.parametrize("name", METERS)
def test_windows_as_the_flow_makes_them_are_proven_without_a_second_look(
    client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    meter, customer_no = METERS[name], next(customers)
    monkeypatch.setattr(proof, "_judge_events", lambda *_: pytest.fail("judged one by one"))
    expected = judged(meter, EVENTS)
    assert 0 < expected.events < len(EVENTS) or name == "count"
    store_events(client, customer_no, EVENTS)
    store_window(client, customer_no, expected.events, expected.total)
    assert prove(client, meter, customer_no) == {}


@pytest.mark.parametrize("name", METERS)
def test_one_event_or_one_unit_too_many_is_seen(client: Client, name: str) -> None:
    meter, expected = METERS[name], judged(METERS[name], EVENTS)
    more, other = next(customers), next(customers)
    for customer_no in (more, other):
        store_events(client, customer_no, EVENTS)
    store_window(client, more, expected.events + 1, expected.total)
    store_window(client, other, expected.events, expected.total + Decimal("0.000000000001"))
    assert len(prove(client, meter, more)) == 1
    assert len(prove(client, meter, other)) == (0 if meter.aggregation is Aggregation.COUNT else 1)


def test_what_sql_reads_inexactly_is_judged_event_by_event(client: Client) -> None:
    customer_no, events = next(customers), ['{"tokens":0.1234567890123456789012345678901234}', '{"tokens":"1e-31"}']
    expected = judged(METERS["all"], events)
    store_events(client, customer_no, events)
    store_window(client, customer_no, expected.events, expected.total)
    assert prove(client, METERS["all"], customer_no) == {}


def test_a_batch_that_was_stored_twice_counts_once_and_a_later_one_not_yet(client: Client) -> None:
    customer_no = next(customers)
    for _ in range(2):
        store_events(client, customer_no, EVENTS[:2])
        store_window(client, customer_no, 2, Decimal("3.5"))
    store_window(client, customer_no, 5, Decimal(100), seq=1_001)
    assert prove(client, METERS["all"], customer_no) == {}


def test_windows_without_any_event_and_events_without_any_window_differ(client: Client) -> None:
    windows_only, events_only = next(customers), next(customers)
    store_window(client, windows_only, 1, Decimal(5))
    store_events(client, events_only, EVENTS[:1])
    [reason] = prove(client, METERS["all"], windows_only).values()
    assert reason == "the windows hold 1 events with a sum of 5, the raw events are 0 events with a sum of 0"
    assert len(prove(client, METERS["all"], events_only)) == 1


def test_facts_of_before_the_meter_was_made_are_its_own_but_for_what_it_cannot_read(client: Client) -> None:
    customer_no = next(customers)
    store_events(client, customer_no, ['{"tokens":7}', '{"tokens":"abc"}'], seq=9)
    assert len(prove(client, METERS["all"], customer_no)) == 1
    store_window(client, customer_no, 1, Decimal(7), seq=9)
    assert prove(client, METERS["all"], customer_no) == {}


OTHERS = {
    "compared": meter_of(Filter(property="$.size", op=FilterOperator.GT, values=("1",))),
    "arithmetic": meter_of(value="$.tokens * 2 + $.size"),
}
VALUED = {
    "max": meter_of(aggregation=Aggregation.MAX),
    "users": meter_of(aggregation=Aggregation.UNIQUE_COUNT, value="$.region"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_sql_cannot_say_is_judged_one_by_one(client: Client, name: str) -> None:
    customer_no, meter = next(customers), OTHERS[name]
    expected = judged(meter, EVENTS)
    assert expected.events > 0
    store_events(client, customer_no, EVENTS)
    store_window(client, customer_no, expected.events, expected.total)
    assert prove(client, meter, customer_no) == {}
    store_window(client, customer_no, 1, Decimal(1), seq=2)
    assert len(prove(client, meter, customer_no)) == 1


@pytest.mark.parametrize("name", VALUED)
def test_meters_that_do_not_add_up_are_proven_value_by_value(client: Client, name: str) -> None:
    customer_no, meter = next(customers), VALUED[name]
    store_events(client, customer_no, EVENTS)
    taken = [(event_value(meter, data), event_text(meter, data)) for data in map(parse_data, EVENTS)]
    rows = [
        [1, 1, customer_no, START + timedelta(hours=n), [], START, 0, n, 0, 1, 0, 1, value, text]
        for n, (value, text) in enumerate(taken)
        if value is not None
    ]
    client.insert("usage_values", rows)
    assert prove(client, meter, customer_no) == {}
    client.insert("usage_values", [[*rows[0][:12], Decimal(8), "=other"]])
    assert len(prove(client, meter, customer_no)) == 1


def test_an_event_that_its_meter_cannot_have_taken_is_a_difference_and_no_error(client: Client) -> None:
    customer_no = next(customers)
    store_events(client, customer_no, ['{"tokens":"abc"}'])
    store_window(client, customer_no, 1, Decimal(7))
    assert len(prove(client, METERS["all"], customer_no)) == 1


def test_a_copy_from_after_the_dedup_window_is_an_event_of_its_own(client: Client) -> None:
    """The flow counts it again, so the proof must find both."""
    customer_no = next(customers)
    for seq in (1, 2):
        store_events(client, customer_no, ['{"tokens":7}'], seq=seq, offset=seq, identity=b"the same id      "[:16])
        store_window(client, customer_no, 1, Decimal(7), seq=seq)
    assert prove(client, METERS["all"], customer_no) == {}
