"""Every aggregation, as ClickHouse answers it, beside an oracle in plain decimals and fractions."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clickhouse import levels
from infra.clickhouse import values as usage_values
from infra.clickhouse.client import Client
from infra.clickhouse.usage import query_usage, stored_range, usage_totals
from infra.clickhouse.usage_query import Span, UsageKey, UsageQuery
from schemas.errors import Reject
from schemas.meters import Aggregation
from schemas.money import EXACT, format_decimal
from schemas.windows import WindowSize, window_bounds
from tests.infra.clickhouse.rows import TENANT_NO
from tests.infra.clickhouse.usage_facts import ZONES, facts, ranges
from tests.infra.clickhouse.usage_oracle import START, Case, Taken, fact, oracle, store


@settings(max_examples=8)
@given(
    taken=facts(),
    span=ranges(),
    window=st.sampled_from([size for size in WindowSize if size is not WindowSize.MINUTE]),
    zone=st.sampled_from(ZONES),
    customer_nos=st.sampled_from([None, [1], [1, 2], [9]]),
    by_customer=st.booleans(),
    group_by=st.sampled_from([(), ("model",), ("region", "model")]),
    filters=st.sampled_from([{}, {"model": ["=m1", ""]}, {"region": ["=m2"], "model": ["=m1"]}]),
    pages=st.integers(2, 5),
)
def test_every_aggregation_answers_as_the_oracle(
    clickhouse: Client, taken: list[Taken], span: tuple[datetime, datetime], window: WindowSize, zone: str,
    pages: int, **fields: Any
) -> None:  # fmt: skip
    case = store(clickhouse, taken)
    bounds = window_bounds(window, ZoneInfo(zone), *span)
    for aggregation in Aggregation:
        query = case.query(aggregation, start=span[0], end=span[1], bounds=bounds, **fields)
        wanted = oracle(query, taken)
        assert query_usage(clickhouse, query, after=None, limit=100_000) == wanted, aggregation
        assert list(paged(clickhouse, query, len(wanted) // pages + 1).items()) == list(wanted.items()), aggregation


def paged(client: Client, query: UsageQuery, limit: int) -> dict[UsageKey, Decimal]:
    """The answer in pages of `limit` rows, of which none comes twice."""
    found: dict[UsageKey, Decimal] = {}
    after: UsageKey | None = None
    while page := query_usage(client, query, after=after, limit=limit):
        assert len(page) <= limit
        assert not found.keys() & page.keys()
        found |= page
        after = max(page)
    return found


@settings(max_examples=8)
@given(taken=facts(), given_spans=st.lists(st.tuples(st.sampled_from([1, 2, 9]), ranges()), min_size=1, max_size=4))
def test_spans_are_measured_as_wholes_and_by_group(
    clickhouse: Client, taken: list[Taken], given_spans: list[tuple[int, tuple[datetime, datetime]]]
) -> None:
    """All aggregations of a chunk together: the whole is never made of the groups but where they add up."""
    case = store(clickhouse, taken)
    meters = {meter.meter_no: meter for meter in case.meters.values()}
    spans = {
        Span(customer_no=customer_no, meter_no=meter.meter_no, start=start, end=end): aggregation
        for customer_no, (start, end) in given_spans
        for aggregation, meter in case.meters.items()
    }
    totals = usage_totals(clickhouse, tenant_no=TENANT_NO, meters=meters, spans=list(spans))
    assert totals.keys() == spans.keys()
    for span, aggregation in spans.items():
        query = case.query(
            aggregation, start=span.start, end=span.end, bounds=[span.start, span.end],
            customer_nos=[span.customer_no],
        )  # fmt: skip
        whole = list(oracle(query, taken).values())
        assert totals[span].whole == (whole[0] if whole else None), aggregation
        by_group = oracle(replace(query, group_by=("model", "region")), taken)
        assert totals[span].groups == {
            tuple(text.decode() for text in key.groups): value for key, value in by_group.items()
        }, aggregation


def answer(client: Client, case: Case, aggregation: Aggregation, minutes: list[int], **fields: Any) -> list[str]:
    """The values of windows between these minutes from START."""
    bounds = [START + timedelta(minutes=minute) for minute in minutes]
    query = case.query(aggregation, start=bounds[0], end=bounds[-1], bounds=bounds, **{"customer_nos": None, **fields})
    return [format_decimal(value) for value in query_usage(client, query, after=None, limit=1_000).values()]


def test_a_level_holds_over_windows_without_events_and_from_before_the_first(clickhouse: Client) -> None:
    case = store(clickhouse, [fact(10, "4", offset=0), fact(90, "10", offset=1), fact(150, "0", offset=2)])
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 20, 60, 120, 180, 240]) == [
        "2", "4", "7", "5", "0",
    ]  # fmt: skip
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [30, 60, 90]) == ["4", "4"]
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [-60, 0]) == []


def test_levels_of_several_series_add_up_and_are_rounded_once(clickhouse: Client) -> None:
    thirds = [fact(20, "1", offset=0), fact(20, "1", offset=1, model="=m2")]
    case = store(clickhouse, thirds)
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 30]) == ["0.666666666667"]
    each = answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 30], group_by=("model",))
    assert each == ["0.333333333333", "0.333333333333"]


def test_the_latest_of_one_instant_is_the_last_received_and_then_the_last_in_the_log(clickhouse: Client) -> None:
    later = START + timedelta(seconds=1)
    tied = [
        fact(5, "1", offset=9),
        fact(5, "2", offset=3, received_at=later),
        fact(5, "3", offset=2, received_at=later),
    ]
    case = store(clickhouse, tied)
    assert answer(clickhouse, case, Aggregation.LATEST, [0, 10]) == ["2"]
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [5, 10]) == ["2"]


def test_the_greatest_values_over_centuries_don_t_overflow(clickhouse: Client) -> None:
    most = "99999999999999999999999999999999999999"
    series = [
        fact(0, most, offset=n, model=f"=m{n}", occurred_at=datetime.fromisoformat("1900-01-01T00:00:00Z"))
        for n in range(50)
    ]
    case = store(clickhouse, series)
    ends = [datetime.fromisoformat("1900-01-01T00:00:00Z"), datetime.fromisoformat("2199-12-31T23:59:59.999999Z")]
    query = case.query(Aggregation.WEIGHTED_SUM, start=ends[0], end=ends[1], bounds=ends, customer_nos=None)
    assert list(query_usage(clickhouse, query, after=None, limit=5).values()) == [
        EXACT.multiply(Decimal(most), Decimal(50))
    ]
    span = Span(customer_no=1, meter_no=query.meter.meter_no, start=ends[0], end=ends[1])
    totals = usage_totals(clickhouse, tenant_no=TENANT_NO, meters={span.meter_no: query.meter}, spans=[span])
    assert totals[span].whole == EXACT.multiply(Decimal(most), Decimal(50))


def test_what_was_taken_back_does_not_exist_for_any_aggregation(clickhouse: Client) -> None:
    """And a window of which everything was taken back is absent."""
    kept = [fact(1, "5", offset=0), fact(2, "7", offset=1)]
    gone = [
        fact(2, "9", offset=2, voided=True),
        fact(0, "1", offset=3, voided=True),
        fact(12, "1", offset=4, voided=True),
    ]
    case = store(clickhouse, kept + gone)
    found = {
        aggregation.value: answer(clickhouse, case, aggregation, [0, 10, 20])
        for aggregation in Aggregation
        if aggregation is not Aggregation.WEIGHTED_SUM
    }
    assert found == {
        "count": ["2"], "sum": ["12"], "min": ["5"], "max": ["7"], "avg": ["6"], "latest": ["7"], "unique_count": ["2"],
    }  # fmt: skip
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 10, 20]) == ["6.1", "7"]


def test_a_range_is_that_of_what_is_left(clickhouse: Client) -> None:
    taken = [fact(1, "1", offset=0, voided=True), fact(5, "2", offset=1), fact(9, "3", offset=2, voided=True)]
    case = store(clickhouse, taken)
    minute = START + timedelta(minutes=5)
    for meter in case.meters.values():
        assert stored_range(clickhouse, meter=meter, customer_nos=None) == (minute, minute)
        assert stored_range(clickhouse, meter=meter, customer_nos=[2]) is None


def test_more_series_than_can_be_told_apart_are_refused(clickhouse: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "MAX_SERIES", 2)
    case = store(clickhouse, [fact(n, "1", offset=n, model=f"=m{n}") for n in range(3)])
    with pytest.raises(Reject) as refused:
        answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 10], group_by=("model",))
    assert refused.value.code == "usage.too_many_groups"
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 2], group_by=("model",)) == ["1", "0.5"]
    assert answer(clickhouse, case, Aggregation.WEIGHTED_SUM, [0, 10]) == ["2.7"]


@pytest.mark.parametrize("aggregation", [Aggregation.UNIQUE_COUNT, Aggregation.WEIGHTED_SUM])
def test_an_answer_that_needs_too_much_memory_is_refused(
    clickhouse: Client, monkeypatch: pytest.MonkeyPatch, aggregation: Aggregation
) -> None:
    case = store(clickhouse, [fact(n, str(n), offset=n) for n in range(3)])
    monkeypatch.setitem(usage_values.SETTINGS, "max_memory_usage", 1_000)
    with pytest.raises(Reject) as refused:
        answer(clickhouse, case, aggregation, [0, 10])
    assert refused.value.code == "usage.too_large"
