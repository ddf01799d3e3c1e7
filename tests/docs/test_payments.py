"""The examples of docs/payments.md that need no account give what the page says."""

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_every_step_of_the_page_on_payments_prints_what_stands_beside_it(services: Services) -> None:
    _, promises = run_promises(DOCS / "payments.md", services)
    assert len(promises) > 7
    for promise in promises:
        assert promise.printed == promise.promised, promise.command
