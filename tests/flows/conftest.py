"""One log a module: its own databases and topics, several flows after each other."""

from collections.abc import Iterator

import pytest

from infra.settings import Settings
from tests.support.stack import fresh_databases
from tests.support.usage_log import UsageLog


@pytest.fixture(scope="module")
def log(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageLog]:
    """An empty log with stores of its own."""
    usage_log = UsageLog(fresh_databases(stack), tmp_path_factory.mktemp("flows"))
    yield usage_log
    usage_log.close()
