"""Windows that differ from what the stored facts give are found, whatever the meter, and repaired."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from flows import rebuild
from flows.proving import ProofDoors, prove_all, prove_page
from infra.clickhouse.client import ClickHouseError
from infra.postgres.meter_builds import load_retired
from infra.postgres.meter_proofs import count_drifted, load_results
from infra.postgres.pool import Database
from schemas.catalogue import MeterEntry
from schemas.events import ChangeKind
from schemas.meters import Aggregation
from tests.flows.test_builds import GROUPED, active_of, traffic, window_rows
from tests.support.meters import change_meter, finish_builds, make_meter, make_tenant
from tests.support.usage_log import Sent, UsageLog, wait_for

KINDS: tuple[dict[str, Any], ...] = (
    GROUPED,
    {"aggregation": Aggregation.COUNT, "value": None},
    {"aggregation": Aggregation.MAX, "value": "$.size"},
    {"aggregation": Aggregation.UNIQUE_COUNT, "value": "$.model"},
)


def nothing() -> None:
    pass


def test_a_drift_is_found_told_and_repaired_and_all_else_is_proven(
    log: UsageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "CHUNK_ROWS", 70)  # many ranges, and hours larger than one
    tenant_id, no = make_tenant(log.postgres)
    log.customers({"acme": 1, "umbrella": 2, "initech": 3}, tenant_no=no)
    meters = [make_meter(log.postgres, tenant_id, no, f"m{index}", **kind) for index, kind in enumerate(KINDS)]
    database = Database(log.settings.postgres_dsn, max_connections=2)
    doors = ProofDoors(database=database, clickhouse=log.clickhouse, full_after=timedelta(hours=1), repairs=True)
    with log.flow() as flow:
        finish_builds(log.settings)
        sent = traffic("proof", no)
        log.send(sent)
        log.wait_stored(flow)
        log.change(ChangeKind.VOID, sent[30:90])
        log.wait_stored(flow)
        now = datetime.now(UTC)
        found = prove_all(doors, meter=None, now=now)
        assert [(each.proof.ok, each.proof.examples) for each in found] == [(True, [])] * len(KINDS)
        assert all(each.proof.events > 0 and each.proof.windows > 0 for each in found)
        log.send(traffic("more", no, 60))
        log.wait_stored(flow)
        recent, _ = prove_page(doors, after_no=0, now=now, beat=nothing)
        assert [(each.proof.ok, each.kind, each.proof.events) for each in recent] == [(True, "recent", 58)] * len(KINDS)
        spoil(log, meters[0].meter_no)
        log.clickhouse.command(
            "DELETE FROM usage_values WHERE meter_no = {meter:UInt32} AND value = 1.5 AND kafka_partition = 0",
            parameters={"meter": meters[2].meter_no},
        )
        found = prove_all(doors, meter=None, now=now)
        assert [each.proof.ok for each in found] == [False, True, False, True]
        assert found[0].proof.drifted == 1
        assert found[0].proof.examples[0].startswith("too many: 77 ")
        assert found[2].proof.drifted > 1
        assert [each.repairing for each in found] == [True, False, True, False]
        assert finish_builds(log.settings) == 2
        assert [active_of(log, meter)[0] for meter in meters] == [2, 1, 2, 1]
        assert all(each.proof.ok for each in prove_all(doors, meter="m0", now=now))
        late = now + timedelta(hours=2)
        assert window_rows(log, meters[0]) != []
        prove_page(doors, after_no=0, now=late, beat=nothing)
        wait_for(
            lambda: window_rows(log, meters[0]) == window_rows(log, meters[2], "usage_values") == [],
            "what nobody reads is removed",
        )
        assert window_rows(log, meters[1]) != []
    told = log.postgres.execute(
        "SELECT kind, ok, revision FROM meter_proofs WHERE meter_no = %s", (meters[0].meter_no,)
    )
    assert {(row["kind"], row["ok"], row["revision"]) for row in told} == {("full", True, 2), ("recent", True, 2)}
    assert window_rows(log, msgspec.structs.replace(meters[0], revision=2))
    spoil(log, meters[1].meter_no)
    names = ("postgres_dsn", "clickhouse_url")
    environment = os.environ | {f"METERLINE_{name.upper()}": str(getattr(log.settings, name)) for name in names}
    doctor = [sys.executable, "-m", "infra.cli.app", "doctor", "--proof"]
    command = subprocess.run([*doctor, "--meter", "m1", "--json"], env=environment, capture_output=True, check=False)
    answer = msgspec.json.decode(command.stdout)
    assert (command.returncode, answer["ok"], answer["meters"][0]["drifted"]) == (1, False, 1)
    database.close()
    shown = subprocess.run(doctor, env=environment, capture_output=True, check=False)
    assert shown.returncode == 1
    assert b"1 rows differ" in shown.stdout


def result_of(log: UsageLog, meter: MeterEntry) -> tuple[bool, int, list[str]]:
    """The newest proof that users see."""
    row = load_results(log.postgres, meter_nos=[meter.meter_no])[meter.meter_no]
    return row["ok"], row["drifted"], row["examples"]


def test_a_drift_stands_until_all_is_proven_or_counted_anew(log: UsageLog) -> None:
    tenant_id, no = make_tenant(log.postgres)
    log.customers({"acme": 1}, tenant_no=no)
    meter, other = (make_meter(log.postgres, tenant_id, no, f"standing-{n}", event_type="standing") for n in range(2))
    now = datetime.now(UTC)
    with closing(Database(log.settings.postgres_dsn, max_connections=2)) as database, log.flow() as flow:
        doors = ProofDoors(database=database, clickhouse=log.clickhouse, full_after=timedelta(hours=1), repairs=False)

        def recent(doors: ProofDoors) -> bool:
            """Prove what came lately; whether a repair of the meter was begun."""
            found, _ = prove_page(doors, after_no=meter.meter_no - 1, now=now, beat=nothing)
            assert [(each.kind, each.proof.ok) for each in found[:2]] == [("recent", True)] * 2
            assert result_of(log, other) == (True, 0, [])
            return found[0].repairing

        finish_builds(log.settings)
        log.send([Sent(id="standing", tenant_no=no, type="standing", data={"tokens": 1})])
        log.wait_stored(flow)
        before = count_drifted(log.postgres)
        prove_all(doors, meter="standing-1", now=now)
        spoil(log, meter.meter_no)
        assert [each.proof.ok for each in prove_all(doors, meter="standing-0", now=now)] == [False]
        found = result_of(log, meter)
        assert (found[0], found[1], len(found[2])) == (False, 1, 1)
        assert not recent(doors)
        assert result_of(log, meter) == found, "what came since says nothing of what was wrong before"
        assert count_drifted(log.postgres) == before + 1
        unspoil(log, meter.meter_no)
        prove_all(doors, meter="standing-0", now=now)
        assert result_of(log, meter) == (True, 0, [])
        spoil(log, meter.meter_no, total=6)
        prove_all(doors, meter="standing-0", now=now)
        found = result_of(log, meter)
        assert recent(replace(doors, repairs=True)), "a repair that was not begun then begins now"
        assert result_of(log, meter) == found
        assert finish_builds(log.settings) == 1
        assert load_results(log.postgres, meter_nos=[meter.meter_no]) == {}, "the new revision is not yet proven"
        prove_all(doors, meter="standing-0", now=now)
        assert result_of(log, meter) == (True, 0, [])
        assert count_drifted(log.postgres) == before


def test_meters_are_proven_when_old_windows_can_not_be_removed(log: UsageLog) -> None:
    tenant_id, no = make_tenant(log.postgres)
    meter = make_meter(log.postgres, tenant_id, no, "unswept", event_type="unswept")
    now = datetime.now(UTC)
    with closing(Database(log.settings.postgres_dsn, max_connections=2)) as database, log.flow():
        doors = ProofDoors(database=database, clickhouse=log.clickhouse, full_after=timedelta(hours=1), repairs=False)
        finish_builds(log.settings)
        change_meter(log.postgres, no, meter, value="$.other")
        finish_builds(log.settings)
        log.clickhouse.command("RENAME TABLE usage_values TO usage_values_away")
        try:
            with pytest.raises(ClickHouseError):
                prove_page(doors, after_no=meter.meter_no - 1, now=now + timedelta(hours=2), beat=nothing)
        finally:
            log.clickhouse.command("RENAME TABLE usage_values_away TO usage_values")
        assert result_of(log, meter) == (True, 0, [])
        left = load_retired(log.postgres, before=now + timedelta(hours=2), limit=100)
        assert (meter.meter_no, 1) in left, "the next pass tries again"


def unspoil(log: UsageLog, meter_no: int) -> None:
    """Take the row of `spoil` away."""
    log.clickhouse.command(
        "DELETE FROM usage_minutes WHERE meter_no = {meter:UInt32} AND customer_no = 77", parameters={"meter": meter_no}
    )


def spoil(log: UsageLog, meter_no: int, total: int = 5) -> None:
    """A row of windows that nothing gave. The same one is not stored a second time, be it removed meanwhile."""
    log.clickhouse.insert("usage_minutes", [[meter_no, 1, 77, datetime(2026, 3, 10, tzinfo=UTC), [], 0, 1, 1, total]])
