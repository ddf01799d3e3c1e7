"""Is the process alive, can it reach what it needs, and what does it measure. Open to everyone: no tenant's data."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.metrics import CONTENT_TYPE_LATEST, render
from infra.settings import Settings
from ingestion_api.answers import answer

PROBE_TIMEOUT_SECONDS = 2
CACHE_SECONDS = 1  # however often /readyz is asked, the servers are asked no more than this often
MAX_PROBES = 4  # at once; a server that hangs holds one of them until its own timeout

router = APIRouter(tags=["health"])
_log = structlog.get_logger("meterline.api")

Status = Literal["ok", "down", "unconfigured"]


class Component(TypedDict):
    """A server this process depends on."""

    name: str
    status: Status
    latency_ms: int | None


class Health(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """`ok` when every configured server answers."""

    status: Literal["ok", "down"]
    components: list[Component]


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    module: str  # imported when it is first asked: Temporal's client alone takes a second
    address: str


class Readier:
    """Asks the servers, all at once and never more often than every CACHE_SECONDS. Safe for threads."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._probes = [
            _Probe("postgres", "infra.postgres.probe", settings.postgres_dsn),
            _Probe("clickhouse", "infra.clickhouse.probe", settings.clickhouse_url),
            _Probe("kafka", "infra.kafka.probe", settings.kafka_bootstrap),
            _Probe("temporal", "infra.temporal.probe", settings.temporal_address),
        ]
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(MAX_PROBES, thread_name_prefix="probe")
        self._running: dict[str, Future[int]] = {}
        self._lock = threading.Lock()
        self._known: Readiness | None = None
        self._asked_at = 0.0

    def readiness(self) -> Readiness:
        """What the servers said within PROBE_TIMEOUT_SECONDS, at most CACHE_SECONDS ago."""
        with self._lock:
            if self._known is None or self._monotonic() - self._asked_at >= CACHE_SECONDS:
                self._known = self._ask()
                self._asked_at = self._monotonic()
            return self._known

    def close(self) -> None:
        """Ask no more. A probe that still waits ends by its own timeout."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> Readiness:
        deadline = self._monotonic() + PROBE_TIMEOUT_SECONDS + 0.5
        for probe in self._probes:
            if probe.address and (probe.name not in self._running or self._running[probe.name].done()):
                self._running[probe.name] = self._executor.submit(_latency_ms, probe)
        components = [self._component(probe, deadline) for probe in self._probes]
        down = any(component["status"] == "down" for component in components)
        return {"status": "down" if down else "ok", "components": components}

    def _component(self, probe: _Probe, deadline: float) -> Component:
        if not probe.address:
            return {"name": probe.name, "status": "unconfigured", "latency_ms": None}
        try:
            latency_ms = self._running[probe.name].result(timeout=max(0, deadline - self._monotonic()))
        except Exception as error:  # whatever a client library raises: the server does not answer
            _log.warning("dependency down", component=probe.name, error=f"{type(error).__name__}: {error}")
            return {"name": probe.name, "status": "down", "latency_ms": None}
        return {"name": probe.name, "status": "ok", "latency_ms": latency_ms}


def _latency_ms(probe: _Probe) -> int:
    ask = import_module(probe.module).probe
    started = time.perf_counter()
    ask(probe.address, PROBE_TIMEOUT_SECONDS)
    return round((time.perf_counter() - started) * 1000)


@router.get("/healthz", response_model=Health, operation_id="healthz")
async def healthz() -> Response:
    """Whether this process serves at all. Asks nobody."""
    return answer({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Readiness,
    operation_id="readyz",
    responses={503: {"model": Readiness, "description": "A server does not answer."}},
)
def readyz(request: Request) -> Response:
    """Whether every server this process depends on answers, each by name."""
    readier: Readier = request.app.state.readier
    readiness = readier.readiness()
    return answer(readiness, 200 if readiness["status"] == "ok" else 503)


@router.get("/metrics", operation_id="metrics", response_class=Response)
def metrics() -> Response:
    """What this process measures, in Prometheus's text form."""
    return Response(render(), media_type=CONTENT_TYPE_LATEST)
