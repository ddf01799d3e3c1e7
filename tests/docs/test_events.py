"""Every command of docs/events.md runs and answers as the page says."""

import pytest

from tests.support.pages import DOCS, run_page
from tests.support.services import Services


@pytest.mark.timeout(180)
def test_the_page_on_events_follows_them_from_quarantine_to_void(services: Services) -> None:
    said = run_page(DOCS / "events.md", services, timeout_seconds=160)
    assert '"accepted":3' in said
    assert "create the customer or add the subject" in said
    assert 'at $.tokens stands "many"' in said
    assert '"object":"replay","requested":1,"has_more":false' in said
    assert "quarantined events are judged anew" in said
    assert '"status":"voided"' in said
    assert '"conflict":true' in said
