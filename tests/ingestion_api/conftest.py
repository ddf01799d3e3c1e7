"""One API for the tests of this folder; every test works in a tenant of its own."""

from collections.abc import Iterator

import pytest

from infra.settings import Settings
from tests.support.api import Api, running_api
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
