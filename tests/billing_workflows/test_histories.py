"""Workflows are deterministic: runs that were recorded once replay by the code of today."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from billing_workflows import worker

HISTORIES = Path(__file__).parent / "histories"
NAMES = [
    "sweep",
    "sweep_failures",
    "clock_advance",
    "meter_build",
    "meter_proofs",
    "invariants",
    "webhooks",
]
#: What workers run, by its type.
WORKFLOWS: dict[str, type[Any]] = {
    found.name: each
    for each in vars(worker).values()
    if isinstance(each, type) and (found := getattr(each, "__temporal_workflow_definition", None)) is not None
}


def recorded(name: str) -> WorkflowHistory:
    return WorkflowHistory.from_json(name, (HISTORIES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_replays(name: str) -> None:
    asyncio.run(Replayer(workflows=list(WORKFLOWS.values())).replay_workflow(recorded(name)))


def test_every_recorded_run_is_replayed() -> None:
    assert sorted(path.stem for path in HISTORIES.glob("*.json")) == sorted(NAMES)


def test_a_run_of_every_workflow_is_recorded() -> None:
    types = {recorded(name).events[0].workflow_execution_started_event_attributes.workflow_type.name for name in NAMES}
    assert types == WORKFLOWS.keys()
    assert len(types) == 6
