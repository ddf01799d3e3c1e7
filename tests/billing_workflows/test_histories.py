"""Workflows are deterministic: runs that were recorded once replay by the code of today."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from billing_workflows.clock_advance import ClockAdvance
from billing_workflows.invariant_checks import InvariantChecks
from billing_workflows.meter_builds import MeterBuild
from billing_workflows.meter_proofs import MeterProofs
from billing_workflows.sweep import BillingSweep
from billing_workflows.webhooks import WebhookDelivery

HISTORIES = Path(__file__).parent / "histories"
NAMES = ["sweep", "clock_advance", "meter_build", "meter_proofs", "invariants", "webhooks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_replays(name: str) -> None:
    history = WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text(encoding="utf-8"))
    replayer = Replayer(
        workflows=[BillingSweep, ClockAdvance, MeterBuild, MeterProofs, InvariantChecks, WebhookDelivery]
    )
    asyncio.run(replayer.replay_workflow(history))


def test_every_recorded_run_is_replayed() -> None:
    assert sorted(path.stem for path in HISTORIES.glob("*.json")) == sorted(NAMES)
