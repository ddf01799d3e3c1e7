"""Windows that differ from what the stored facts give are found, whatever the meter, and repaired."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from flows import rebuild
from flows.proving import ProofDoors, prove_all, prove_page
from infra.postgres.pool import Database
from schemas.events import ChangeKind
from schemas.meters import Aggregation
from tests.flows.test_builds import GROUPED, active_of, traffic, window_rows
from tests.support.meters import finish_builds, make_meter, make_tenant
from tests.support.usage_log import UsageLog

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
        assert window_rows(log, meters[0]) == window_rows(log, meters[2], "usage_values") == [], "nobody reads them"
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


def spoil(log: UsageLog, meter_no: int) -> None:
    """A row of windows that nothing gave."""
    log.clickhouse.insert("usage_minutes", [[meter_no, 1, 77, datetime(2026, 3, 10, tzinfo=UTC), [], 0, 1, 1, 5]])
