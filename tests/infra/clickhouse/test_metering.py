"""What billing measures for its usage lines."""

from datetime import timedelta
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.metering import measure
from schemas.billing import GroupQuantity, UsageNeed
from schemas.instants import Period
from schemas.meters import Aggregation
from tests.infra.clickhouse.rows import TENANT_NO
from tests.infra.clickhouse.usage_oracle import START, fact, store

HOUR = START + timedelta(hours=1)


def test_lines_of_every_aggregation_get_their_whole_beside_the_groups(clickhouse: Client) -> None:
    case = store(
        clickhouse,
        [
            fact(0, "4", offset=0), fact(30, "10", offset=1), fact(30, "10", offset=2, model="=m2"),
            fact(59, "7", offset=3, voided=True), fact(60, "99", offset=4),
        ],
    )  # fmt: skip
    needs = [
        UsageNeed(subscription_id="sub_1", key=aggregation.value, tenant_no=TENANT_NO, customer_no=1, meter=meter,
                  period=Period(start=START, end=HOUR))
        for aggregation, meter in case.meters.items()
    ]  # fmt: skip
    usage = measure(clickhouse, needs).of("sub_1")
    assert {key: metered.quantity for key, metered in usage.items()} == {
        "count": 3, "sum": 24, "min": 4, "max": 10, "avg": 8, "latest": 10, "unique_count": 2, "weighted_sum": 12,
    }  # fmt: skip
    assert usage["weighted_sum"].groups == (
        GroupQuantity(group={"model": "m1", "region": None}, quantity=Decimal(7)),
        GroupQuantity(group={"model": "m2", "region": None}, quantity=Decimal(5)),
    )
    assert [group.quantity for group in usage[Aggregation.UNIQUE_COUNT].groups] == [2, 1]


def test_no_usage_is_a_quantity_of_nothing_for_every_aggregation(clickhouse: Client) -> None:
    case = store(clickhouse, [fact(90, "5", offset=0)])
    needs = [
        UsageNeed(subscription_id="sub_1", key=aggregation.value, tenant_no=TENANT_NO, customer_no=1, meter=meter,
                  period=Period(start=START, end=HOUR))
        for aggregation, meter in case.meters.items()
    ]  # fmt: skip
    usage = measure(clickhouse, needs).of("sub_1").values()
    assert [(metered.quantity, metered.groups) for metered in usage] == [(0, ())] * len(Aggregation)
