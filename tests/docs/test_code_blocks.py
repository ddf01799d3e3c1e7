"""Every code block of the documents runs."""

import re

import pytest

from tests.support.pages import DOCS, ROOT, run_page
from tests.support.services import Services


@pytest.mark.timeout(150)
def test_the_quickstart_goes_from_nothing_to_an_invoice(services: Services) -> None:
    said = run_page(DOCS / "quickstart.md", services)
    assert '"used":"1500000"' in said.replace(" ", "")
    assert '"number":"INV-000001"' in said.replace(" ", "")
    assert '"status":"counted"' in said.replace(" ", "")


def test_the_readme_names_only_commands_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    links = {link for link in re.findall(r"\]\(([^)#]+)", readme) if not link.startswith("http")}
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []
