"""Every code block of the documents runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.services import Services

ROOT = Path(__file__).resolve().parents[2]
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shell_blocks(path: Path) -> list[str]:
    return SHELL_BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.mark.timeout(120)
def test_the_quickstart_goes_from_nothing_to_an_invoice(services: Services) -> None:
    assert shutil.which("curl"), "the quickstart is written for curl; install it to run its test"
    script = "set -eu\n" + "\n".join(shell_blocks(ROOT / "docs" / "quickstart.md"))
    environment = os.environ | {"METERLINE_URL": services.url, "METERLINE_API_KEY": services.new_tenant_key()}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"used":"1500000"' in done.stdout.replace(" ", "")
    assert '"number":"INV-000001"' in done.stdout.replace(" ", "")
    assert '"status":"counted"' in done.stdout.replace(" ", "")


def test_the_readme_names_only_commands_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    links = {link for link in re.findall(r"\]\(([^)#]+)", readme) if not link.startswith("http")}
    assert [link for link in sorted(links) if not (ROOT / link).exists()] == []
