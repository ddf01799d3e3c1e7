"""The examples of docs/subscriptions.md print what the page says."""

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(200)
def test_everything_on_the_page_on_subscriptions_prints_what_stands_beside_it(services: Services) -> None:
    _, promises = run_promises(DOCS / "subscriptions.md", services, timeout_seconds=180)
    assert len(promises) > 20
    assert [(each.command, each.printed) for each in promises] == [(each.command, each.promised) for each in promises]
