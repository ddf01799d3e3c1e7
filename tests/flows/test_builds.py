"""Meters that were made after their events count them as if they had been there before, row for row."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from flows import rebuild
from flows.builds import BuildDoors, count, switch, wait_for_flows
from infra.clickhouse.past import Hour, Selection
from infra.postgres.meter_builds import load_passed, load_waiting
from infra.postgres.meters import mark_groups_over_limit
from infra.postgres.pool import Database
from infra.postgres.shards import claim_partitions, record_catalogue_version
from schemas.catalogue import MeterEntry
from schemas.events import ChangeKind
from schemas.meters import BY_VALUE, Aggregation, Filter, FilterOperator
from tests.support.meters import change_meter, finish_builds, make_meter, make_tenant
from tests.support.usage_log import NOON, WAIT_SECONDS, RunningFlow, Sent, UsageLog, entitlement, wait_for

GROUPED: dict[str, Any] = {
    "filters": (Filter(property="$.region", op=FilterOperator.IN, values=('"eu"', "1.0")),),
    "group_by": ("model",),
}
TOKENS = [1, "2.5", 0.1, "99999999999999999999.000000000001", None, -3, 0]


@pytest.fixture(scope="module")
def tenant(log: UsageLog) -> tuple[str, int]:
    return make_tenant(log.postgres)


def traffic(prefix: str, tenant_no: int, count: int = 400) -> list[Sent]:
    """Events of three customers over some hours, with values of all sorts, some that a sum can't read."""
    return [
        Sent(
            id=f"{prefix}-{n}",
            tenant_no=tenant_no,
            subject=("acme", "umbrella", "initech")[n % 3],
            time=NOON + timedelta(seconds=n * 37 % 9000),
            data={
                "tokens": TOKENS[n % len(TOKENS)] if n % 50 else "no number",
                "size": ("1.5", n % 9, -2, None)[n % 4],
                "region": ("eu", "us", 1, None)[n % 4],
                "model": ("m1", "m2", None)[n % 3],
            },
        )
        for n in range(count)
    ]


def window_rows(log: UsageLog, meter: MeterEntry, table: str = "usage_minutes") -> list[Any]:
    """All rows of the revision, without its number."""
    columns = {
        "usage_minutes": "customer_no, minute, group_values, shard, seq, event_count, total",
        "usage_values": "customer_no, occurred_at, group_values, kafka_partition, kafka_offset, kafka_index, effect,"
        " shard, seq, value, text",
    }
    rows = log.clickhouse.query(
        f"SELECT {columns[table]} FROM {table} FINAL"  # noqa: S608 - texts of this file
        " WHERE meter_no = {no:UInt32} AND revision = {revision:UInt32} ORDER BY ALL",
        parameters={"no": meter.meter_no, "revision": meter.revision},
    ).result_rows
    return list(rows)


def active_of(log: UsageLog, meter: MeterEntry) -> tuple[int, bool]:
    row = log.postgres.execute("SELECT revision, is_built FROM meters WHERE no = %s", (meter.meter_no,)).fetchone()
    assert row is not None
    return row["revision"], row["is_built"]


def test_a_meter_made_later_has_the_rows_of_one_that_was_there_before(
    log: UsageLog, tenant: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "CHUNK_ROWS", 60)  # many chunks, and hours larger than one
    tenant_id, no = tenant
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    kinds: Sequence[dict[str, Any]] = (
        GROUPED,
        {"aggregation": Aggregation.COUNT, "value": None},
        {"value": "$.size * $.size - 1"},
        *({"aggregation": each, "value": "$.size", "group_by": ("model",)} for each in sorted(BY_VALUE)),
    )
    early = [make_meter(log.postgres, tenant_id, no, f"early-{index}", **kind) for index, kind in enumerate(kinds)]
    with log.flow() as flow:
        assert finish_builds(log.settings) == len(early)
        sent = traffic("first", no)
        log.send(sent)
        log.send(sent[:100])  # copies count for nothing
        log.wait_stored(flow)
        log.change(ChangeKind.VOID, sent[20:60])
        later = [make_meter(log.postgres, tenant_id, no, f"later-{index}", **kind) for index, kind in enumerate(kinds)]
        log.send(traffic("second", no))  # some before the flow knows of the meters, some after
        log.change(ChangeKind.VOID, sent[50:70])
        assert finish_builds(log.settings) == len(later)
        log.send(traffic("third", no))
        log.wait_stored(flow)
    for before, after in zip(early, later, strict=True):
        assert active_of(log, after) == (1, True)
        table = "usage_values" if after.aggregation in BY_VALUE else "usage_minutes"
        assert window_rows(log, before, table) == window_rows(log, after, table) != []


def test_readers_stay_until_a_changed_meter_is_built_and_a_change_meanwhile_begins_anew(
    log: UsageLog, tenant: tuple[str, int]
) -> None:
    tenant_id, no = tenant
    log.customers({"acme": 1}, tenant_no=no)
    meter = make_meter(log.postgres, tenant_id, no, "changing", event_type="changing")
    with log.flow() as flow:
        finish_builds(log.settings)
        events = [
            Sent(id=f"changing-{n}", tenant_no=no, type="changing", data={"tokens": 1, "other": 10}) for n in range(5)
        ]
        log.send(events)
        log.wait_stored(flow)
        second = change_meter(log.postgres, no, meter, value="$.other")
        assert active_of(log, meter) == (1, True)
        third = change_meter(log.postgres, no, second, aggregation=Aggregation.COUNT, value=None)
        log.send([Sent(id="changing-late", tenant_no=no, type="changing", data={"tokens": 1, "other": 10})])
        assert finish_builds(log.settings) == 1
        log.wait_stored(flow)
        assert active_of(log, meter) == (3, True)
        states = log.postgres.execute(
            "SELECT revision, state FROM meter_revisions WHERE meter_no = %s ORDER BY revision", (meter.meter_no,)
        ).fetchall()
        assert [row["state"] for row in states] == ["retired", "superseded", "active"]
        assert sum(row[5] for row in window_rows(log, third)) == 6
        log.send([Sent(id="changing-last", tenant_no=no, type="changing", data={"tokens": 1})])
        log.wait_stored(flow)
    assert sum(row[5] for row in window_rows(log, third)) == 7
    assert sum(row[5] for row in window_rows(log, meter)) <= 6, "the former revision is counted no more"


class _KilledError(Exception):
    pass


def test_counting_goes_on_from_where_it_was_broken_off(
    log: UsageLog, tenant: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "CHUNK_ROWS", 30)
    tenant_id, no = tenant
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    early = make_meter(log.postgres, tenant_id, no, "unbroken", event_type="broken")
    with log.flow() as flow:
        finish_builds(log.settings)
        log.send([replace(event, type="broken") for event in traffic("broken", no)])
        log.wait_stored(flow)
    late = msgspec.structs.replace(early, meter_no=early.meter_no + 1_000)
    selection = Selection(tenant_no=no, event_type="broken", seqs={0: 1 << 40})
    places: list[tuple[int, Hour]] = []

    def break_off(counted: int, place: Hour) -> None:
        places.append((counted, place))
        if len(places) % 3 == 0:
            raise _KilledError

    start: Hour | None = None
    for _ in range(100):
        try:
            rebuild.count_past(log.clickhouse, meter=late, selection=selection, start=start, progress=break_off)
        except _KilledError:
            start = places[-1][1]
        else:
            break
    assert len(places) > 6, "it was broken off several times"
    assert window_rows(log, late) == window_rows(log, early) != []


def test_a_build_that_is_killed_anywhere_is_exact_once_it_is_done(log: UsageLog, tenant: tuple[str, int]) -> None:
    tenant_id, no = tenant
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    early = make_meter(log.postgres, tenant_id, no, "living", event_type="killed")
    names = ("postgres_dsn", "clickhouse_url")
    environment = os.environ | {f"METERLINE_{name.upper()}": str(getattr(log.settings, name)) for name in names}
    with log.flow() as flow:
        finish_builds(log.settings)
        log.send([replace(event, type="killed") for event in traffic("killed", no)])
        log.wait_stored(flow)
        late = make_meter(log.postgres, tenant_id, no, "killed", event_type="killed")
        for point in ("rebuild.inserted", "rebuild.progressed", "rebuild.before_switch", "rebuild.switched"):
            build = subprocess.Popen(
                [sys.executable, "-m", "flows.builds"], env=environment | {"METERLINE_CRASH_AT": point}
            )
            assert build.wait(WAIT_SECONDS) == -signal.SIGKILL
            log.send([replace(event, type="killed") for event in traffic(point, no, 50)])
        assert finish_builds(log.settings) == 0, "the last one died after the switch"
        log.wait_stored(flow)
    assert active_of(log, late) == (1, True)
    assert window_rows(log, late) == window_rows(log, early) != []


def test_a_shard_that_joins_while_the_past_is_counted_counts_the_revision_live(
    log: UsageLog, tenant: tuple[str, int]
) -> None:
    tenant_id, no = tenant
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    early = make_meter(log.postgres, tenant_id, no, "before-joined", event_type="joined", group_by=("model",))

    def send(prefix: str, *flows: RunningFlow) -> None:
        log.send([replace(event, type="joined") for event in traffic(prefix, no, 60)])
        log.wait_stored(*flows)

    with closing(Database(log.settings.postgres_dsn, max_connections=2)) as database:
        doors = BuildDoors(database=database, clickhouse=log.clickhouse)
        with log.flow() as flow:
            finish_builds(log.settings)
            send("joined-first", flow)
            late = make_meter(log.postgres, tenant_id, no, "joined", event_type="joined", group_by=("model",))
            [build] = load_waiting(log.postgres, limit=2)
            seqs = wait_for_flows(doors, build, beat=lambda: None)
            assert 1 not in seqs
        with log.flow(flow_shards=2) as stayed, log.flow(flow_shards=2, flow_shard=1) as joined:
            send("joined-second", stayed, joined)
            now = datetime.now(UTC)
            count(doors, build, seqs=seqs, start=None, counted_before=0, at=now, progress=lambda _counted, _hour: None)
            send("joined-third", stayed, joined)
            switch(doors, build, at=now)
            send("joined-last", stayed, joined)
    assert active_of(log, late) == (1, True)
    assert {row[3] for row in window_rows(log, early)} == {0, 1}, "both have stored some"
    assert window_rows(log, late) == window_rows(log, early)


def test_a_shard_that_has_joined_is_waited_for_until_it_counts_the_revision_live(log: UsageLog) -> None:
    version = log.customers({"acme": 1})
    log.send([Sent(id="has-joined")])
    with log.flow() as flow:
        log.wait_stored(flow)
        wait_for(lambda: load_passed(log.postgres, version=version) is not None, "the flow has passed the version")
    with log.postgres.transaction(force_rollback=True):
        claim_partitions(log.postgres, topic=log.settings.events_topic, shard=9, partitions=[0])
        assert load_passed(log.postgres, version=version) is None
        record_catalogue_version(log.postgres, shard=9, version=version)
        passed = load_passed(log.postgres, version=version)
        assert passed is not None
        assert passed[9] == 0, "of a shard that begins with the version nothing is past"


def test_that_there_were_too_many_groups_is_forgotten_with_the_properties_that_made_them(
    log: UsageLog, tenant: tuple[str, int]
) -> None:
    tenant_id, no = tenant
    first = make_meter(log.postgres, tenant_id, no, "over", event_type="over", group_by=("model",))
    numbers = (first.meter_no,)
    marked = "SELECT groups_over_limit_at IS NOT NULL AS marked FROM meters WHERE no = %s"

    def is_marked() -> bool:
        row = log.postgres.execute(marked, numbers).fetchone()
        assert row is not None
        return row["marked"]

    with log.flow():
        finish_builds(log.settings)
        mark_groups_over_limit(log.postgres, meter_no=first.meter_no, revision=2, at=NOON)
        assert not is_marked(), "readers do not use that revision"
        mark_groups_over_limit(log.postgres, meter_no=first.meter_no, revision=1, at=NOON)
        second = change_meter(log.postgres, no, first, value="$.other")
        finish_builds(log.settings)
        assert is_marked()
        change_meter(log.postgres, no, second, group_by=("region",))
        assert is_marked(), "readers still use the former"
        finish_builds(log.settings)
    assert not is_marked()


def test_a_counter_follows_the_revision_that_readers_use(log: UsageLog, tenant: tuple[str, int]) -> None:
    tenant_id, no = tenant
    log.customers({"acme": 1}, tenant_no=no)
    start = datetime.now(UTC) - timedelta(days=1)
    events = [
        Sent(id=f"c-{n}", tenant_no=no, type="counter", time=start + timedelta(hours=n), data={"a": 1, "b": 10})
        for n in range(3)
    ]
    with log.flow() as flow:
        log.send(events[:1])
        log.wait_stored(flow)
        meter = make_meter(log.postgres, tenant_id, no, "counter", event_type="counter", value="$.a")
        log.catalogue([entitlement(900, meter_no=meter.meter_no, starts_at=start)])
        log.send(events[1:2])
        log.wait_stored(flow)
        assert counters(log, 900) == [], "nothing is counted while the first revision is built"
        finish_builds(log.settings)
        wait_for(lambda: counters(log, 900) == [(1, 2)], "the past is in the counter")
        second = change_meter(log.postgres, no, meter, value="$.b")
        log.send(events[2:])
        log.wait_stored(flow)
        assert counters(log, 900) == [(1, 3)], "the former revision is counted on"
        finish_builds(log.settings)
        wait_for(lambda: counters(log, 900) == [(2, 30)], "the counter is seeded anew")
        log.send([replace(events[0], id="c-last")])
        log.wait_stored(flow)
        assert counters(log, 900) == [(2, 40)]
        third = change_meter(log.postgres, no, second, aggregation=Aggregation.MAX)
        finish_builds(log.settings)
        wait_for(lambda: counters(log, 900) == [(3, 10)], "the counter is a maximum")
        fourth = change_meter(log.postgres, no, third, aggregation=Aggregation.UNIQUE_COUNT)
        finish_builds(log.settings)
        wait_for(lambda: counters(log, 900) == [(4, 1)], "the counter is one of different values")
        fifth = change_meter(log.postgres, no, fourth, value="$.a")
        finish_builds(log.settings)
        log.send([replace(events[0], id="c-other", data={"a": 2})])
        wait_for(lambda: counters(log, 900) == [(5, 2)], "the counter is one of other values")
        change_meter(log.postgres, no, fifth, aggregation=Aggregation.WEIGHTED_SUM)
        finish_builds(log.settings)
        log.send([replace(events[0], id="c-uncounted")])
        log.wait_stored(flow)
    assert counters(log, 900) == [(5, 2)], "a time average has no counter, and readers pass the old one by"


def counters(log: UsageLog, entitlement_no: int) -> list[tuple[int, int]]:
    """(revision of the meter, used) of the rows of an entitlement."""
    rows = log.postgres.execute(
        "SELECT meter_revision, used FROM entitlement_counters WHERE entitlement_no = %s", (entitlement_no,)
    ).fetchall()
    return [(row["meter_revision"], row["used"]) for row in rows]
