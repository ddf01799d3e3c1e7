"""The examples of docs/usage.md give what the page says."""

import re

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_every_query_of_the_page_on_usage_answers_what_stands_beside_it(services: Services) -> None:
    _, promises = run_promises(DOCS / "usage.md", services)
    assert len(promises) > 15
    for promise in promises:
        values = re.findall(r'"value":"([^"]*)"', promise.printed)
        assert " ".join(values) == promise.promised, promise.command
