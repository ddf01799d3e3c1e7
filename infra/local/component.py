"""What the supervisor has to know of a process that it keeps alive."""

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol


class Probe(Protocol):
    """Asks a server a real question. Returns its version, or raises when there is no answer in time."""

    def __call__(self, address: str, timeout_seconds: float) -> str: ...


def probe_of(store: str) -> Probe:
    """The probe of `infra.<store>.probe`. Its library is imported when it first asks: servers start meanwhile."""

    def probe(address: str, timeout_seconds: float) -> str:
        return import_module(f"infra.{store}.probe").probe(address, timeout_seconds)

    return probe


def without_password(address: str) -> str:
    """The address as it may be shown: `http://default:…@127.0.0.1:8123/x` → `http://default@127.0.0.1:8123/x`."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One server or service. `prepare` runs before each start, in the component's own thread, and is idempotent."""

    name: str
    command: Sequence[str]
    address: str = ""
    port: int = 0  # asked only when it listens: client libraries complain aloud about a port that doesn't
    probe: Probe | None = None  # none: nothing to ask, so it is up when it has lived for a while
    prepare: Callable[[], None] = field(default=lambda: None)
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    stop_signal: signal.Signals = signal.SIGTERM
    stop_limit_seconds: float = 15
    uses_others: bool = False  # a service: it stops before the servers do
    system_user: str | None = None  # the user to run as; only root may name one
