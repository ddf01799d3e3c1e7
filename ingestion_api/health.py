"""Is the process alive, can it reach what it needs, and what does it measure. Open to everyone: no tenant's data."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Literal

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.liveness import Liveness, ask_flow, ask_worker
from infra.metrics import CONTENT_TYPE_LATEST, render
from infra.settings import Settings
from ingestion_api import clock
from ingestion_api.answers import answer

PROBE_TIMEOUT_SECONDS = 2
CACHE_SECONDS = 1  # however often /readyz is asked, the servers are asked no more than this often
MAX_PROBES = 6  # at once; a server that hangs holds one of them until its own timeout

router = APIRouter(tags=["health"])
_log = structlog.get_logger("meterline.api")

Status = Literal["ok", "starting", "down", "unconfigured"]


class Component(TypedDict):
    """A server this process depends on, or one of the two services behind it: `flow`, which meters, and `worker`, which
    bills. A service is `starting` until it is first seen; `detail` says how far it is behind."""

    name: str
    status: Status
    latency_ms: int | None
    detail: str | None


class Health(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """`ok` when every configured server answers, and metering and billing run."""

    status: Literal["ok", "down"]
    components: list[Component]


@dataclass(frozen=True, slots=True)
class _Answer:
    latency_ms: int
    liveness: Liveness | None  # of a service


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    address: str  # empty: nothing to ask
    ask: Callable[[], Liveness | None]


class Readier:
    """Asks the servers, all at once and never more often than every CACHE_SECONDS. Safe for threads."""

    def __init__(
        self,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._probes = [
            _server("postgres", settings.postgres_dsn),
            _server("clickhouse", settings.clickhouse_url),
            _server("kafka", settings.kafka_bootstrap),
            _server("temporal", settings.temporal_address),
            _Probe("flow", settings.postgres_dsn, lambda: ask_flow(settings, PROBE_TIMEOUT_SECONDS, now())),
            _Probe("worker", settings.temporal_address, lambda: ask_worker(settings, PROBE_TIMEOUT_SECONDS, now())),
        ]
        self._monotonic = monotonic
        self._executor = ThreadPoolExecutor(MAX_PROBES, thread_name_prefix="probe")
        self._running: dict[str, Future[_Answer]] = {}
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
                self._running[probe.name] = self._executor.submit(_timed, probe)
        components = [self._component(probe, deadline) for probe in self._probes]
        ready = all(component["status"] in ("ok", "unconfigured") for component in components)
        return {"status": "ok" if ready else "down", "components": components}

    def _component(self, probe: _Probe, deadline: float) -> Component:
        if not probe.address:
            return {"name": probe.name, "status": "unconfigured", "latency_ms": None, "detail": None}
        try:
            answered = self._running[probe.name].result(timeout=max(0, deadline - self._monotonic()))
        except Exception as error:  # whatever a client library raises: the server does not answer
            _log.warning("dependency down", component=probe.name, error=f"{type(error).__name__}: {error}")
            return {"name": probe.name, "status": "down", "latency_ms": None, "detail": None}
        status, detail = (
            ("ok", None) if answered.liveness is None else (answered.liveness.status, answered.liveness.detail)
        )
        return {"name": probe.name, "status": status, "latency_ms": answered.latency_ms, "detail": detail}


def _server(name: str, address: str) -> _Probe:
    def ask() -> None:
        # Imported when it is first asked: Temporal's client alone takes a second.
        import_module(f"infra.{name}.probe").probe(address, PROBE_TIMEOUT_SECONDS)

    return _Probe(name, address, ask)


def _timed(probe: _Probe) -> _Answer:
    started = time.perf_counter()
    liveness = probe.ask()
    return _Answer(round((time.perf_counter() - started) * 1000), liveness)


@router.get("/healthz", response_model=Health, operation_id="healthz")
async def healthz() -> Response:
    """Whether this process serves at all. Asks nobody."""
    return answer({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Readiness,
    operation_id="readyz",
    responses={503: {"model": Readiness, "description": "A server, metering or billing does not answer."}},
)
def readyz(request: Request) -> Response:
    """Whether every server this process depends on answers, and metering and billing run, each by name. To ask only
    whether this process can take requests, ask /healthz."""
    readier: Readier = request.app.state.readier
    readiness = readier.readiness()
    return answer(readiness, 200 if readiness["status"] == "ok" else 503)


@router.get("/metrics", operation_id="metrics", response_class=Response)
def metrics() -> Response:
    """What this process measures, in Prometheus's text form."""
    return Response(render(), media_type=CONTENT_TYPE_LATEST)
