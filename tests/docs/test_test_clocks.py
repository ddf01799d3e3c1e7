"""The commands of docs/test-clocks.md give what the page says."""

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_a_year_of_billing_comes_out_as_the_page_on_test_clocks_says(services: Services) -> None:
    _, promises = run_promises(DOCS / "test-clocks.md", services)
    assert len(promises) == 3
    for promise in promises:
        assert promise.printed.strip() == promise.promised, promise.command
