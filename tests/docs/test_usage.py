"""The examples of docs/usage.md give what the page says."""

import os
import re
import shutil
import subprocess

import pytest

from tests.docs.test_code_blocks import ROOT, shell_blocks
from tests.support.services import Services

QUERY = re.compile(r"^(?P<command>usage .*) # → (?P<values>.*)$")


@pytest.mark.timeout(150)
def test_every_query_of_the_page_on_usage_answers_what_stands_beside_it(services: Services) -> None:
    assert shutil.which("curl"), "the page is written for curl; install it to run its test"
    lines = "\n".join(shell_blocks(ROOT / "docs" / "usage.md")).splitlines()
    queries = [found for found in map(QUERY.match, lines) if found]
    script = "set -eu\n" + "\n".join(f"echo '===='; {line}" if QUERY.match(line) else line for line in lines)
    environment = os.environ | {"METERLINE_URL": services.url, "METERLINE_API_KEY": services.new_tenant_key()}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=140, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = done.stdout.split("====\n")[1:]
    assert len(queries) == len(answers) > 15
    for query, answer in zip(queries, answers, strict=True):
        values = re.findall(r'"value":"([^"]*)"', answer.splitlines()[0])
        assert " ".join(values) == query["values"], query["command"]
