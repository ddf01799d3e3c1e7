"""The examples of docs/meters.md print what the page says."""

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_every_command_of_the_page_on_meters_prints_what_stands_beside_it(services: Services) -> None:
    before, promises = run_promises(DOCS / "meters.md", services)
    assert "there should be an operator: + - *, and not '/ 2', at character 9" in before
    assert len(promises) > 5
    for promise in promises:
        assert promise.printed == promise.promised, promise.command
