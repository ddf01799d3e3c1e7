"""Every command of docs/events.md runs and answers as the page says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import ROOT, shell_blocks
from tests.support.services import Services


@pytest.mark.timeout(180)
def test_the_page_on_events_follows_them_from_quarantine_to_void(services: Services) -> None:
    script = "set -eu\n" + "\n".join(shell_blocks(ROOT / "docs" / "events.md"))
    environment = os.environ | {
        "METERLINE_URL": services.url,
        "METERLINE_API_KEY": services.new_tenant_key(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=160, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert '"accepted":3' in said
    assert "create the customer or add the subject" in said
    assert 'at $.tokens stands "many"' in said
    assert '"object":"replay","requested":1,"has_more":false' in said
    assert "quarantined events are judged anew" in said
    assert '"status":"voided"' in said
    assert '"conflict":true' in said
