"""A meter with too many groups is told of once, and counted all the same."""

from decimal import Decimal

import msgspec
import pytest

from flows.attribute import attribute
from flows.combine import combine
from flows.groups import GroupWatch
from schemas.catalogue import MeterEntry
from schemas.meters import Aggregation
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import NOON, Sent, UsageLog, meter


def watch(watching: GroupWatch, meters: list[MeterEntry], names: list[str], value: object = 1) -> list[MeterEntry]:
    events = [Sent(id=f"e{index}", data={"g": name, "v": value}) for index, name in enumerate(names)]
    judged = attribute(columns(events), catalogue_of(meters, {"acme": 1}))
    return watching.watch(judged, combine(judged))


@pytest.mark.parametrize("aggregation", [Aggregation.SUM, Aggregation.MAX])
@pytest.mark.parametrize("value", [1, 10**20])
def test_the_meter_that_passes_the_limit_is_told_once(aggregation: Aggregation, value: int) -> None:
    watching = GroupWatch(3)
    grouped = meter(1, aggregation=aggregation, value="$.v", group_by=("g", "h"))
    whole = meter(2, aggregation=aggregation, value="$.v")
    assert watch(watching, [grouped, whole], ["a", "b", "c", "a"], value) == []
    assert watch(watching, [grouped, whole], ["c", "b"], value) == []
    assert watch(watching, [grouped, whole], ["d", "a"], value) == [grouped]
    assert watch(watching, [grouped, whole], ["e", "f"], value) == []


def test_a_meter_is_told_of_again_once_it_is_grouped_otherwise_and_only_as_readers_use_it() -> None:
    watching = GroupWatch(1)
    first = meter(1, value="$.v", group_by=("g",))
    second = msgspec.structs.replace(first, revision=2, group_by=("g", "h"))
    assert watch(watching, [first, msgspec.structs.replace(second, active=False)], ["a", "b"]) == [first]
    assert watch(watching, [second], ["a"]) == []
    assert watch(watching, [second], ["b"]) == [second]
    assert watch(watching, [msgspec.structs.replace(second, revision=3)], ["c"]) == []


def test_users_see_the_first_time_and_everything_is_counted(log: UsageLog) -> None:
    log.postgres.execute("INSERT INTO tenants (id, name, created_at) VALUES ('ten_1', 'Acme', now())")
    row = log.postgres.execute(
        "INSERT INTO meters (id, tenant_id, key, name, event_type, aggregation, created_at)"
        " VALUES ('mtr_1', 'ten_1', 'm', 'M', 'llm.request', 'sum', now()) RETURNING no"
    ).fetchone()
    assert row is not None
    log.customers({"acme": 1})
    log.meters(meter(row["no"], group_by=("g",)))
    log.send([Sent(id=f"e{index}", data={"g": f"g{index}", "tokens": 1}) for index in range(4)])
    with log.flow(group_cardinality_limit=3) as flow:
        log.wait_stored(flow)
    marked = log.postgres.execute("SELECT groups_over_limit_at AS at FROM meters WHERE id = 'mtr_1'").fetchone()
    assert marked is not None
    assert marked["at"] is not None
    assert log.usage() == {(row["no"], 1, NOON, (f"=g{index}",)): (1, Decimal(1)) for index in range(4)}
