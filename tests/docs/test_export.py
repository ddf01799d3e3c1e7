"""The examples of docs/export.md give what the page says."""

import pytest

from tests.support.pages import DOCS, run_promises
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_every_step_of_the_page_on_exports_prints_what_stands_beside_it(
    services: Services, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("page"))  # the page writes a few files
    _, promises = run_promises(DOCS / "export.md", services)
    assert len(promises) == 9
    for promise in promises:
        assert promise.printed == promise.promised, promise.command
