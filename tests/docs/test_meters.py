"""The examples of docs/meters.md print what the page says."""

import os
import re
import shutil
import subprocess

import pytest

from tests.docs.test_code_blocks import ROOT, shell_blocks
from tests.support.services import Services

PROMISE = re.compile(r"^(?P<command>.*\S) +# → (?P<printed>.*)$")


@pytest.mark.timeout(150)
def test_every_command_of_the_page_on_meters_prints_what_stands_beside_it(services: Services) -> None:
    assert shutil.which("curl"), "the page is written for curl; install it to run its test"
    lines = "\n".join(shell_blocks(ROOT / "docs" / "meters.md")).splitlines()
    promises = [found for found in map(PROMISE.match, lines) if found]
    script = "set -eu\n" + "\n".join(f"echo '===='; {line}" if PROMISE.match(line) else line for line in lines)
    environment = os.environ | {"METERLINE_URL": services.url, "METERLINE_API_KEY": services.new_tenant_key()}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=140, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, *printed = done.stdout.split("====\n")
    assert "there should be an operator: + - *, and not '/ 2', at character 9" in before
    assert len(promises) == len(printed) > 5
    for promise, answer in zip(promises, printed, strict=True):
        assert answer.splitlines()[0] == promise["printed"], promise["command"]
