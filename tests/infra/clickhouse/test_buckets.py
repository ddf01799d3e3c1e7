"""Usage in buckets and single values, as billing measures them for the prices that need these."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.clickhouse import buckets, transactions
from infra.clickhouse.client import Client
from infra.clickhouse.metering import EXPECTED_TRANSACTIONS, VALUES_A_BATCH, batches, measure
from pricing.charges import Bucket
from pricing.metered import bucket_bounds
from schemas.billing import Buckets, GroupQuantity, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import Period
from schemas.meters import BUCKET_AGGREGATIONS, Aggregation
from schemas.money import EXACT
from tests.infra.clickhouse.rows import TENANT_NO
from tests.infra.clickhouse.usage_facts import ZONES, facts, ranges
from tests.infra.clickhouse.usage_oracle import START, Taken, fact, oracle, store

HOUR = timedelta(hours=1)
HALVES = (START, START + HOUR / 2, START + HOUR)
PAIRS = [(meter, bucket) for meter, allowed in BUCKET_AGGREGATIONS.items() for bucket in sorted(allowed)]


def need(meter: MeterEntry, start: datetime, end: datetime, **fields: Any) -> UsageNeed:
    """What customer 1's subscription needs, unless said otherwise."""
    given: dict[str, Any] = {"subscription_id": "sub_1", "key": "line", "customer_no": 1}
    return UsageNeed(tenant_no=TENANT_NO, meter=meter, period=Period(start=start, end=end), **(given | fields))


def cut(aggregation: Aggregation, bounds: tuple[datetime, ...], *, by_group: bool = False) -> Buckets:
    return Buckets(bounds=bounds, aggregation=aggregation, by_group=by_group)


def added(values: list[Decimal]) -> Decimal:
    """An exact sum: Python's own rounds to 28 digits."""
    return reduce(EXACT.add, values, Decimal(0))


@settings(max_examples=4)
@given(
    taken=facts(),
    span=ranges(),
    bucket=st.sampled_from([Bucket.HOUR, Bucket.DAY]),
    zone=st.sampled_from(ZONES),
    by_group=st.booleans(),
)
def test_every_bucket_is_what_the_oracle_says_of_its_window(
    clickhouse: Client, taken: list[Taken], span: tuple[datetime, datetime], bucket: Bucket, zone: str, by_group: bool
) -> None:
    """Several customers and aggregations together; a bucket is an aggregation of the meter's values, not of its own."""
    case = store(clickhouse, taken)
    bounds = bucket_bounds(bucket, Period(start=span[0], end=span[1]), zone)
    needs = [
        need(case.meters[meter], *span, subscription_id=f"sub_{customer_no}", key=f"{meter}/{wanted}",
             customer_no=customer_no, buckets=cut(wanted, bounds, by_group=by_group))
        for meter, wanted in PAIRS
        for customer_no in (1, 2, 9)
    ]  # fmt: skip
    measured = measure(clickhouse, needs)
    for customer_no in (1, 2, 9):
        usage = measured.of(f"sub_{customer_no}")
        for meter, wanted in PAIRS:
            same = Aggregation.COUNT if meter is Aggregation.COUNT else wanted
            fields = {"start": span[0], "end": span[1], "bounds": bounds, "customer_nos": [customer_no]}
            fields |= {"group_by": ("model", "region") if by_group else ()}
            rows = oracle(case.query(same, **fields), taken)
            found = usage[f"{meter}/{wanted}"]
            assert found.quantity == added(list(rows.values())), (meter, wanted)
            if not by_group:
                assert found.quantities == tuple(rows.values()), (meter, wanted)
                continue
            groups: dict[tuple[bytes, ...], list[Decimal]] = {}
            for key, value in rows.items():
                groups.setdefault(key.groups, []).append(value)
            expected = [added(values) for _, values in sorted(groups.items())]
            assert [group.quantity for group in found.groups] == expected, (meter, wanted)


def test_the_edges_of_a_period_cut_its_buckets(clickhouse: Client) -> None:
    """To the microsecond, also where a bucket's own edge is within the period's minute."""
    case = store(clickhouse, [fact(minute, "1", offset=minute) for minute in range(0, 180, 10)])
    start, end = START + timedelta(minutes=50, seconds=0.000001), START + timedelta(minutes=150, seconds=0.000001)
    bounds = bucket_bounds(Bucket.HOUR, Period(start=start, end=end), "UTC")
    wanted = need(case.meters[Aggregation.SUM], start, end, buckets=cut(Aggregation.SUM, bounds))
    found = measure(clickhouse, [wanted]).of("sub_1")["line"]
    assert found == MeteredUsage(meter_no=wanted.meter.meter_no, quantity=Decimal(10), groups=(), quantities=(6, 4))
    empty = need(case.meters[Aggregation.SUM], start, start, buckets=cut(Aggregation.SUM, (START,)))
    assert measure(clickhouse, [empty]).of("sub_1")["line"].quantities == ()


def test_buckets_come_in_pages_and_have_a_limit(clickhouse: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    case = store(clickhouse, [fact(minute, "2", offset=minute) for minute in range(0, 600, 60)])
    bounds = tuple(START + n * HOUR for n in range(11))
    wanted = need(case.meters[Aggregation.MAX], START, bounds[-1], buckets=cut(Aggregation.MAX, bounds))
    monkeypatch.setattr(buckets, "ROWS_A_PAGE", 3)
    assert measure(clickhouse, [wanted]).of("sub_1")["line"].quantities == (2,) * 10
    monkeypatch.setattr(buckets, "MAX_BUCKETS", 9)
    with pytest.raises(Reject) as refused:
        measure(clickhouse, [wanted])
    assert refused.value.code == "usage.too_many_buckets"


@settings(max_examples=4)
@given(taken=facts(), span=ranges())
def test_single_values_are_those_that_count_in_the_order_of_their_time(
    clickhouse: Client, taken: list[Taken], span: tuple[datetime, datetime]
) -> None:
    case = store(clickhouse, taken)
    meter = case.meters[Aggregation.SUM]
    needs = [need(meter, *span, subscription_id=f"sub_{no}", customer_no=no, each=True) for no in (1, 2, 9)]
    measured = measure(clickhouse, needs)
    for no in (1, 2, 9):
        kept = sorted((event for event in taken if event.customer_no == no and not event.voided), key=lambda e: e.order)
        values = [event.value for event in kept if span[0] <= event.occurred_at < span[1]]
        found = measured.of(f"sub_{no}")["line"]
        assert list(found.quantities) == values
        assert found.quantity == measure(clickhouse, [need(meter, *span, customer_no=no)]).of("sub_1")["line"].quantity


def test_more_transactions_than_the_limit_are_refused(clickhouse: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    case = store(clickhouse, [fact(minute, "2", offset=minute) for minute in range(5)])
    wanted = need(case.meters[Aggregation.SUM], START, START + HOUR, each=True)
    monkeypatch.setattr(transactions, "MAX_TRANSACTIONS", 5)
    assert measure(clickhouse, [wanted]).of("sub_1")["line"].quantities == (2,) * 5
    monkeypatch.setattr(transactions, "MAX_TRANSACTIONS", 4)
    with pytest.raises(Reject) as refused:
        measure(clickhouse, [wanted])
    assert refused.value.code == "usage.too_many_transactions"


def test_an_event_without_the_value_is_no_transaction(clickhouse: Client) -> None:
    case = store(clickhouse, [fact(0, "2", offset=0), fact(1, "3", offset=1, model="")])
    grouped = msgspec.structs.replace(case.meters[Aggregation.SUM], value="$.model")
    wanted = need(grouped, START, START + HOUR, each=True)
    assert measure(clickhouse, [wanted]).of("sub_1")["line"].quantities == (), "m1 is no number, the other has none"


@pytest.mark.parametrize("detail", ["buckets", "each"])
def test_the_proof_holds_for_what_is_measured_in_detail_too(clickhouse: Client, detail: str) -> None:
    case = store(clickhouse, [fact(0, "4", offset=0), fact(30, "10", offset=1), fact(59, "7", offset=2, voided=True)])
    meter = case.meters[Aggregation.SUM]
    fields = {"each": True} if detail == "each" else {"buckets": cut(Aggregation.MAX, HALVES)}
    if detail == "buckets":
        meter = case.meters[Aggregation.MAX]
    wanted = need(meter, START, START + HOUR, **fields)
    stored_seqs = {0: 10}
    assert measure(clickhouse, [wanted], stored_seqs).broken == {}
    for table in ("usage_minutes", "usage_values"):
        clickhouse.command(f"TRUNCATE TABLE {table}")
    [broken] = measure(clickhouse, [wanted], stored_seqs).broken.values()
    assert broken.startswith("line: the windows hold 0 events")


def test_groups_of_buckets_add_up_over_time_and_keep_their_names(clickhouse: Client) -> None:
    case = store(clickhouse, [fact(0, "4", offset=0), fact(1, "9", offset=1), fact(61, "5", offset=2),
                              fact(62, "1", offset=3, model="")])  # fmt: skip
    bounds = (START, START + HOUR, START + 2 * HOUR)
    wanted = need(case.meters[Aggregation.MAX], START, bounds[-1], buckets=cut(Aggregation.MAX, bounds, by_group=True))
    found = measure(clickhouse, [wanted]).of("sub_1")["line"]
    assert (found.quantity, found.quantities) == (15, ())
    assert found.groups == (
        GroupQuantity(group={"model": None, "region": None}, quantity=Decimal(1)),
        GroupQuantity(group={"model": "m1", "region": None}, quantity=Decimal(14)),
    )


def test_what_is_measured_together_is_bounded_by_what_it_may_hold() -> None:
    meter = MeterEntry(
        meter_no=1, revision=1, event_type="t", aggregation=Aggregation.SUM, value="$.n", filters=(), group_by=()
    )
    plain, each = need(meter, START, START + HOUR), need(meter, START, START + HOUR, each=True)
    assert list(batches({})) == []
    assert list(batches({"a": [plain], "b": [plain, plain]})) == [["a", "b"]]
    fit = VALUES_A_BATCH // EXPECTED_TRANSACTIONS
    found = list(batches({str(number): [each] for number in range(fit + 1)}))
    assert [len(batch) for batch in found] == [fit, 1]
    assert [len(batch) for batch in batches({"a": [each] * (fit + 1), "b": [plain]})] == [1, 1]
