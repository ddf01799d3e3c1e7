"""One API for the tests of this folder; every test works in a tenant of its own."""

from collections.abc import Iterator

import pytest

from infra.settings import Settings
from tests.support.api import Api, running_api
from tests.support.billing import World, make_world
from tests.support.stack import fresh_databases


@pytest.fixture(scope="session")
def operator(stack: Settings) -> Iterator[Api]:
    """The API as the operator sees it, on databases that only these tests use."""
    with running_api(fresh_databases(stack)) as api:
        yield api


@pytest.fixture
def api(operator: Api) -> Api:
    """The API as the admin of a new, empty tenant sees it."""
    return operator.new_tenant()


@pytest.fixture(scope="session")
def billed(stack: Settings) -> Iterator[Api]:
    """The API as the operator sees it, on databases in which worlds are billed."""
    with running_api(fresh_databases(stack)) as api:
        yield api


@pytest.fixture
def world(billed: Api) -> Iterator[World]:
    """A tenant to bill, behind the API of `billed`; see `tests.support.billed_api`."""
    made = make_world(billed.settings)
    yield made
    made.close()
