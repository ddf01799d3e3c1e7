"""Do metering and billing run? Asked of what they leave behind, so that it holds wherever they run.

A flow writes down, every second or so, up to when usage is complete; a worker asks Temporal for work again and again.
"""

from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Literal

from infra.settings import Settings
from schemas.workflows import BILLING_TASK_QUEUE

FLOW_LIMIT_SECONDS = 60  # usage is complete within a second or two; behind a longer backlog nobody should trust it
WORKER_LIMIT_SECONDS = 90  # a worker asks again after a minute at the latest


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """`starting`: it has not been seen yet. `detail` says how far it is behind."""

    status: Literal["ok", "starting", "down"]
    detail: str


def ask_flow(settings: Settings, timeout_seconds: float, now: datetime) -> Liveness:
    """Whether every partition's usage is complete up to FLOW_LIMIT_SECONDS ago, windows and counters alike.

    Raises what PostgreSQL raises.
    """
    probe = import_module("infra.postgres.probe")  # when it is asked: client libraries take a while
    as_of: datetime | None = probe.complete_until(
        settings.postgres_dsn, timeout_seconds, topic=settings.events_topic, partitions=settings.events_partitions
    )
    if as_of is None:
        return Liveness(status="starting", detail="not every partition has a flow that counts it yet")
    lag_seconds = max(0, (now - as_of).seconds + (now - as_of).days * 86_400)
    if lag_seconds > FLOW_LIMIT_SECONDS:
        return Liveness(status="down", detail=f"usage is {lag_seconds} s behind; is every flow running?")
    return Liveness(status="ok", detail=f"usage is {lag_seconds} s behind")


def ask_worker(settings: Settings, timeout_seconds: float, now: datetime) -> Liveness:
    """Whether a worker has asked for work within WORKER_LIMIT_SECONDS. Raises what Temporal raises."""
    probe = import_module("infra.temporal.probe")
    seen_at: datetime | None = probe.last_poll(
        settings.temporal_address, timeout_seconds, namespace=settings.temporal_namespace, task_queue=BILLING_TASK_QUEUE
    )
    if seen_at is None:
        return Liveness(status="starting", detail="Temporal knows of no worker")
    age_seconds = max(0, (now - seen_at).seconds + (now - seen_at).days * 86_400)
    if age_seconds > WORKER_LIMIT_SECONDS:
        return Liveness(status="down", detail=f"no worker has asked for work for {age_seconds} s")
    return Liveness(status="ok", detail=f"a worker asked for work {age_seconds} s ago")
