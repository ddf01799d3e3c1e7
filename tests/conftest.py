"""Fixtures for the whole suite."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infra.settings import Settings
from tests.support.services import Services, running_services
from tests.support.stack import fresh_databases, shared_stack

# A slow or busy machine is no failure: what an example must hold has nothing to do with how long it takes.
# `make test` draws the same examples each time; `make test-long` draws ten times as many, and others each time.
settings.register_profile("thorough", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
settings.register_profile("meterline", settings.get_profile("thorough"), max_examples=50, derandomize=True)
settings.load_profile("meterline")


# One topic for all would carry the events of one test into another: who tests the inbox names one of its own.
os.environ.setdefault("METERLINE_INBOX_TOPIC", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the longest limits first: one that were last would leave the other processes idle meanwhile."""
    limits: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        limits[item.path] = max(limits.get(item.path, 0), marker.args[0] if marker and marker.args else 0)
    items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The addresses of real servers: one embedded stack for the run, or what `METERLINE_…` names."""
    base = tmp_path_factory.getbasetemp()
    with shared_stack(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) as settings:
        yield settings


@pytest.fixture
def fresh_stack(stack: Settings) -> Settings:
    """The run's stack with databases and topics of this test's own."""
    return fresh_databases(stack)


@pytest.fixture(scope="session")
def services(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """API, flow and billing worker over the run's stack, on databases of their own; one set for a test process."""
    with running_services(fresh_databases(stack), tmp_path_factory.mktemp("services")) as running:
        yield running
