"""A world to bill: databases for a module, a tenant for a test."""

from collections.abc import Iterator

import pytest

from infra.settings import Settings
from tests.support.billing import World, make_world
from tests.support.stack import fresh_databases


@pytest.fixture(scope="module")
def databases(stack: Settings) -> Settings:
    return fresh_databases(stack)


@pytest.fixture
def world(databases: Settings) -> Iterator[World]:
    made = make_world(databases)
    yield made
    made.close()
