"""SIGKILL of the delivery of webhooks: every one arrives at least once, none is lost, and the log is true."""

import os
import signal
import subprocess
import sys
from collections import Counter

from billing_workflows.deliveries import AT_ONCE
from tests.support.billing import World
from tests.support.receiver import running_receiver
from tests.support.webhooks import make_due

COUNT = 30
KILLS = (2, 1)  # at which passing of the point
WAIT_SECONDS = 60


def deliver(world: World, endpoint_id: str, **environment: str) -> int:
    """The exit code of a process that delivers what is due."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.deliver_once", endpoint_id],
        env={**os.environ, "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn, **environment},
        timeout=WAIT_SECONDS,
        check=False,
    ).returncode


def test_a_delivery_killed_between_sending_and_writing_down_sends_again_and_loses_nothing(world: World) -> None:
    with running_receiver() as receiver:
        endpoint_id = make_due(world, f"{receiver.url}/hooks", COUNT)
        for kill in KILLS:
            killed = deliver(world, endpoint_id, METERLINE_CRASH_AT=f"webhooks.sent:{kill}")
            assert killed == -signal.SIGKILL
        assert deliver(world, endpoint_id) == 0
        arrived = Counter(request.headers["webhook-id"] for request in receiver.at("/hooks"))
    rows = world.rows(
        "SELECT d.message_id, d.status, (SELECT array_agg(a.status_code) FROM webhook_attempts a"
        " WHERE a.delivery_id = d.id) AS codes FROM webhook_deliveries d WHERE d.endpoint_id = %(id)s",
        id=endpoint_id,
    )
    assert {row["message_id"]: (row["status"], row["codes"]) for row in rows} == dict.fromkeys(
        arrived, ("succeeded", [200])
    )
    assert len(arrived) == COUNT
    again = sum(arrived.values()) - COUNT
    assert len(KILLS) <= again <= AT_ONCE * len(KILLS), "what was under way at a kill came again, and nothing else"
