"""Usage as ClickHouse answers it, beside a plain sum over the events."""

import random
from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from infra.clickhouse import usage_query
from infra.clickhouse.client import Client
from infra.clickhouse.usage import query_usage, stored_range, usage_groups, usage_totals
from infra.clickhouse.usage_query import Span, UsageKey, UsageQuery
from schemas.catalogue import MeterEntry
from schemas.matching import event_groups, event_value, matches, parse_data
from schemas.meters import Aggregation, Filter, FilterOperator
from schemas.money import EXACT
from schemas.windows import WindowSize, window_bounds
from tests.infra.clickhouse.rows import TENANT_NO, StoredEvent, store_events

NEW_YORK = ZoneInfo("America/New_York")
MODELS = ["m1", "m2", "it's\\n", "ü", "", None]

SUM = MeterEntry(
    meter_no=1, revision=1, event_type="request", aggregation=Aggregation.SUM, value="$.tokens", filters=(),
    group_by=("model", "region"),
)  # fmt: skip
COUNT = MeterEntry(
    meter_no=2, revision=1, event_type="request", aggregation=Aggregation.COUNT, value=None,
    filters=(Filter(property="$.region", op=FilterOperator.IN, values=('"eu"', "1.0")),), group_by=(),
)  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def random_events(seed: int, count: int) -> list[StoredEvent]:
    """Events over eight days round the end of daylight saving in New York, with exact and negative values."""
    rng = random.Random(seed)
    start = at("2026-10-29T00:00:00Z")
    events: list[StoredEvent] = []
    for number in range(count):
        model = rng.choice(MODELS)
        region = rng.choice(['"eu"', '"us"', "1", "1.00", "true"])
        tokens = rng.choice(["5", "-3.5", "0.000000000001", "1e3", '"7.25"', "null"])
        fields = [f'"tokens":{tokens}', f'"region":{region}']
        if model is not None:
            fields.append('"model":"' + model.replace("\\", "\\\\") + '"')
        events.append(
            StoredEvent(
                id=f"{seed}-{number}",
                customer_no=rng.choice([1, 2, 3]),
                occurred_at=start + timedelta(microseconds=rng.randrange(8 * 86_400_000_000)),
                data="{" + ",".join(fields) + "}",
                meters=(SUM, COUNT),
            )
        )
    return events


@pytest.fixture(scope="module")
def events(clickhouse: Client) -> list[StoredEvent]:
    """Stored in several intents, every other one twice."""
    events = random_events(1, 4_000)
    for seq, start in enumerate(range(0, len(events), 500), start=1):
        store_events(clickhouse, events[start : start + 500], seq=seq, redo=seq % 2 == 0)
    return events


def expected(query: UsageQuery, events: list[StoredEvent]) -> dict[UsageKey, Decimal]:
    totals: dict[UsageKey, Decimal] = defaultdict(Decimal)
    for event in events:
        data = parse_data(event.data)
        value = event_value(query.meter, data) if matches(query.meter, data) else None
        groups = dict(zip(query.meter.group_by, event_groups(query.meter, data), strict=True))
        if (
            value is None
            or not query.start <= event.occurred_at < query.end
            or (query.customer_nos is not None and event.customer_no not in query.customer_nos)
            or any(groups[name] not in texts for name, texts in query.filters.items())
        ):
            continue
        window = next(a for a, b in pairwise(query.bounds) if a <= event.occurred_at < b)
        customer = event.customer_no if query.by_customer else 0
        key = UsageKey(window, customer, tuple(groups[name].encode() for name in query.group_by))
        totals[key] = EXACT.add(totals[key], value)
    return dict(sorted(totals.items()))


def make_query(
    meter: MeterEntry = SUM,
    *,
    start: str = "2026-10-29T00:00:00Z",
    end: str = "2026-11-06T00:00:00Z",
    window: WindowSize = WindowSize.DAY,
    zone: ZoneInfo = NEW_YORK,
    customer_nos: list[int] | None = None,
    by_customer: bool = False,
    group_by: tuple[str, ...] = (),
    filters: dict[str, list[str]] | None = None,
) -> UsageQuery:
    return UsageQuery(
        tenant_no=TENANT_NO, meter=meter, customer_nos=customer_nos, start=at(start), end=at(end),
        bounds=window_bounds(window, zone, at(start), at(end)), by_customer=by_customer, group_by=group_by,
        filters=filters or {},
    )  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        make_query(),
        make_query(COUNT),
        make_query(window=WindowSize.NONE),
        make_query(window=WindowSize.HOUR, customer_nos=[1]),
        make_query(window=WindowSize.MINUTE, customer_nos=[2]),
        make_query(window=WindowSize.WEEK),
        make_query(window=WindowSize.MONTH, zone=ZoneInfo("Asia/Kolkata"), by_customer=True),
        make_query(window=WindowSize.HOUR, zone=ZoneInfo("Australia/Lord_Howe"), customer_nos=[3]),
        make_query(group_by=("model",)),
        make_query(group_by=("region", "model"), by_customer=True, customer_nos=[1, 3]),
        make_query(filters={"model": ["=m1", "=it's\\n", ""]}, group_by=("model",)),
        make_query(filters={"region": ["=1"], "model": ["="]}),
        make_query(start="2026-10-31T05:10:20.000001Z", end="2026-11-01T06:30:59.999999Z"),
        make_query(start="2026-10-30T23:59:30.5Z", end="2026-11-03T00:00:00.000001Z", group_by=("model",)),
        make_query(COUNT, start="2026-10-30T10:00:07Z", end="2026-11-04T10:00:07Z", by_customer=True),
        make_query(COUNT, start="2026-10-30T10:00:07.25Z", end="2026-10-30T10:00:57Z"),
        make_query(start="2026-10-30T10:00:07Z", end="2026-11-03T10:00:07Z", window=WindowSize.NONE),
        make_query(customer_nos=[99]),
    ],
)  # fmt: skip
def test_usage_is_the_exact_sum_over_the_events(
    clickhouse: Client, events: list[StoredEvent], query: UsageQuery
) -> None:
    assert query_usage(clickhouse, query, after=None, limit=100_000) == expected(query, events)


@pytest.mark.parametrize("limit", [7, 100_000])
def test_a_query_binds_a_bounded_number_of_windows_and_finds_all(
    clickhouse: Client, events: list[StoredEvent], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Eight days of minutes, more windows than a parameter of ClickHouse takes, read by the page."""
    bound: list[int] = []
    ask = clickhouse.query

    def count_bounds(text: str, parameters: dict[str, Any]) -> Any:
        bound.append(len(parameters.get("bounds", ())))
        return ask(text, parameters=parameters)

    monkeypatch.setattr(clickhouse, "query", count_bounds)
    query = make_query(window=WindowSize.MINUTE, start="2026-10-29T00:00:20Z")
    whole = list(expected(query, events).items())
    assert query_usage(clickhouse, query, after=None, limit=limit) == dict(whole[:limit])
    after = whole[len(whole) // 2][0]
    assert query_usage(clickhouse, query, after=after, limit=limit) == dict(whole[len(whole) // 2 + 1 :][:limit])
    assert len(query.bounds) > 2 * usage_query.WINDOWS_A_QUERY
    assert max(bound) == usage_query.WINDOWS_A_QUERY + 1


def test_edges_of_a_busy_minute_are_exact_to_the_microsecond(clickhouse: Client) -> None:
    meter = MeterEntry(
        meter_no=11, revision=1, event_type="tick", aggregation=Aggregation.COUNT, value=None, filters=(), group_by=()
    )
    minute = at("2026-05-01T10:00:00Z")
    ticks = [
        StoredEvent(id=f"t{n}", customer_no=4, occurred_at=minute + timedelta(microseconds=n), data="{}", type="tick",
                    meters=(meter,))
        for n in (0, 1, 2, 59_999_999, 60_000_000, 60_000_001)
    ]  # fmt: skip
    store_events(clickhouse, ticks, seq=900, redo=True)

    def count(first: int, last: int) -> Decimal:
        start, end = (minute + timedelta(microseconds=n) for n in (first, last))
        query = UsageQuery(
            tenant_no=TENANT_NO, meter=meter, customer_nos=[4], start=start, end=end, bounds=[start, end]
        )
        return sum(query_usage(clickhouse, query, after=None, limit=10).values(), Decimal(0))

    assert count(0, 60_000_000) == 4
    assert count(1, 60_000_000) == 3
    assert count(1, 60_000_001) == 4
    assert count(2, 59_999_999) == 1
    assert count(1, 2) == 1
    assert count(0, 120_000_000) == 6


def test_pages_put_together_are_the_whole_answer(clickhouse: Client, events: list[StoredEvent]) -> None:
    query = make_query(
        start="2026-10-29T00:00:30Z", end="2026-11-05T10:00:30Z", group_by=("model", "region"), by_customer=True
    )
    whole = expected(query, events)
    pages: dict[UsageKey, Decimal] = {}
    after: UsageKey | None = None
    while page := query_usage(clickhouse, query, after=after, limit=37):
        assert len(page) <= 37
        assert not pages.keys() & page.keys()
        pages |= page
        after = max(page)
    assert list(pages.items()) == list(whole.items())


def test_values_of_38_digits_add_up_without_rounding(clickhouse: Client) -> None:
    meter = MeterEntry(
        meter_no=12, revision=1, event_type="big", aggregation=Aggregation.SUM, value="$.v", filters=(), group_by=()
    )
    texts = ["99999999999999999999999999999999999999", "99999999999999999999999999.999999999999", "-0.000000000001"]
    start = at("2026-05-02T00:00:00Z")
    store_events(
        clickhouse,
        [
            StoredEvent(id=f"b{n}", customer_no=5, occurred_at=start + timedelta(seconds=50 * n), type="big",
                        data=f'{{"v":{text}}}', meters=(meter,))
            for n, text in enumerate(texts)
        ],
        seq=901,
    )  # fmt: skip
    exact = Decimal("100000000000099999999999999999999999998.999999999998")
    for end in (start + timedelta(minutes=2), start + timedelta(seconds=101)):
        query = UsageQuery(
            tenant_no=TENANT_NO, meter=meter, customer_nos=None, start=start, end=end, bounds=[start, end]
        )
        assert list(query_usage(clickhouse, query, after=None, limit=5).values()) == [exact]


def test_quarantined_events_do_not_count_at_an_edge(clickhouse: Client) -> None:
    start = at("2026-05-03T00:00:10Z")
    store_events(
        clickhouse,
        [StoredEvent(id="q1", customer_no=6, occurred_at=start, data='{"tokens":"x"}', status="quarantined")],
        seq=902,
    )
    query = make_query(start="2026-05-03T00:00:05Z", end="2026-05-03T00:00:30Z", customer_nos=[6])
    assert query_usage(clickhouse, query, after=None, limit=5) == {}


def test_groups_and_range_name_what_is_stored(clickhouse: Client, events: list[StoredEvent]) -> None:
    query = make_query(group_by=("model",), by_customer=True, customer_nos=[1, 2])
    found = usage_groups(clickhouse, query, limit=1_000)
    assert found == sorted({(key.customer_no, key.groups) for key in expected(query, events)})
    first, last = stored_range(clickhouse, meter=SUM, customer_nos=None) or (None, None)
    counted = [e.occurred_at.replace(second=0, microsecond=0) for e in events if '"tokens":null' not in e.data]
    assert (first, last) == (min(counted), max(counted))
    assert stored_range(clickhouse, meter=SUM, customer_nos=[99]) is None


def test_totals_of_many_spans_come_by_group(clickhouse: Client, events: list[StoredEvent]) -> None:
    meters = {1: SUM, 2: COUNT}
    moments = ["2026-10-29T10:00:00Z", "2026-10-30T11:22:33.456789Z", "2026-11-02T00:00:00Z", "2026-11-05T06:07:08Z"]
    spans = [
        Span(customer_no=customer, meter_no=meter_no, start=at(start), end=at(end))
        for customer in (1, 2, 3, 99)
        for meter_no in meters
        for start in moments
        for end in moments
        if start < end
    ]
    totals = usage_totals(clickhouse, tenant_no=TENANT_NO, meters=meters, spans=spans)
    assert set(totals) == set(spans)
    for span in spans:
        meter = meters[span.meter_no]
        query = UsageQuery(
            tenant_no=TENANT_NO, meter=meter, customer_nos=[span.customer_no], start=span.start, end=span.end,
            bounds=[span.start, span.end], group_by=meter.group_by,
        )  # fmt: skip
        wanted = {tuple(text.decode() for text in key.groups): value for key, value in expected(query, events).items()}
        assert totals[span].groups == wanted
        assert totals[span].whole == (sum(wanted.values(), Decimal(0)) if wanted else None)


@pytest.mark.usefixtures("events")
def test_another_tenants_events_stay_out_of_the_edges(clickhouse: Client) -> None:
    query = make_query(start="2026-10-30T10:00:07Z", end="2026-10-30T10:00:47Z", window=WindowSize.NONE)
    foreign = replace(query, tenant_no=TENANT_NO + 1)
    assert query_usage(clickhouse, foreign, after=None, limit=5) == {}


def test_a_part_of_a_minute_holds_what_its_meter_can_take_whenever_it_was_made(clickhouse: Client) -> None:
    """A meter covers all facts of its type; one that it can't read was counted by others and is not its own."""
    calls = msgspec.structs.replace(COUNT, meter_no=13, event_type="late", filters=())
    made_later = msgspec.structs.replace(SUM, meter_no=14, event_type="late")
    minute = at("2026-05-04T12:00:00Z")
    events = [
        StoredEvent(id=f"late{n}", customer_no=7, occurred_at=minute + timedelta(seconds=45 + n), data=data,
                    type="late", status=status, meters=())
        for n, (data, status) in enumerate(
            [('{"tokens":"abc"}', "counted"), ('{"tokens":40}', "unmatched"), ('{"tokens":2}', "quarantined")]
        )
    ]  # fmt: skip
    store_events(clickhouse, events, seq=903, redo=True)
    start, end = minute + timedelta(seconds=30), minute + timedelta(seconds=50)
    spans = [Span(customer_no=7, meter_no=meter_no, start=start, end=end) for meter_no in (13, 14)]

    def values() -> list[Decimal | None]:
        totals = usage_totals(clickhouse, tenant_no=TENANT_NO, meters={13: calls, 14: made_later}, spans=spans)
        return [totals[span].whole for span in spans]

    assert values() == [2, 40]
    store_events(clickhouse, [events[1].taken_back(change_offset=9)], seq=904, redo=True)
    assert values() == [1, None]


def test_usage_of_before_1970_is_exact_in_parts_of_minutes_too(clickhouse: Client) -> None:
    meter = msgspec.structs.replace(SUM, meter_no=15, event_type="old")
    instants = [at("1965-03-04T05:06:07.25Z"), at("1969-12-31T23:59:59Z"), at("1900-01-01T00:00:01Z")]
    old = [
        StoredEvent(id=f"old{n}", customer_no=8, occurred_at=instant, data=f'{{"tokens":{n + 1}}}', type="old",
                    received_at=at("2026-05-05T00:00:00Z"), meters=(meter,))
        for n, instant in enumerate(instants)
    ]  # fmt: skip
    store_events(clickhouse, old, seq=905)
    for number, instant in enumerate(instants, start=1):
        spans = [
            Span(customer_no=8, meter_no=15, start=instant - before, end=instant + after)
            for before, after in (
                (timedelta(0), timedelta(microseconds=1)),
                (timedelta(seconds=1), timedelta(seconds=100)),
                (timedelta(seconds=100), timedelta(microseconds=1)),
            )
        ]
        totals = usage_totals(clickhouse, tenant_no=TENANT_NO, meters={15: meter}, spans=spans)
        assert [found.whole for found in totals.values()] == [number] * 3
