"""Runs the code blocks of the documents as a reader would: in one shell, against the real services."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.services import Services

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROMISE = re.compile(r"^(?P<command>.*\S) +# → (?P<promised>.*)$")
MARK = "===="


class Promise(NamedTuple):
    """A command of a page, what stands beside it after `# →`, and the first line that it printed."""

    command: str
    promised: str
    printed: str


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_page(page: Path, services: Services, *, timeout_seconds: int = 140) -> str:
    """Run all `sh` blocks of a page as one script, with a new tenant's key; what it printed. A failed command fails
    the test. `meterline` is the one of this environment. The test's own limit has to be above `timeout_seconds`.
    """
    return _run("\n".join(blocks(page, "sh")), services, timeout_seconds)


def run_promises(page: Path, services: Services, *, timeout_seconds: int = 140) -> tuple[str, list[Promise]]:
    """Run a page whose commands carry `# → what they print`: what was printed before the first of them, and each."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    promises = [found for found in map(PROMISE.match, lines) if found]
    script = "\n".join(f"echo '{MARK}'; {line}" if PROMISE.match(line) else line for line in lines)
    before, *answers = _run(script, services, timeout_seconds).split(f"{MARK}\n")
    return before, [
        Promise(promise["command"], promise["promised"], (answer.splitlines() or [""])[0])
        for promise, answer in zip(promises, answers, strict=True)
    ]


def _run(script: str, services: Services, timeout_seconds: int) -> str:
    assert shutil.which("curl"), "the pages are written for curl; install it to run their tests"
    environment = os.environ | {
        "METERLINE_URL": services.url,
        "METERLINE_API_KEY": services.new_tenant_key(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
