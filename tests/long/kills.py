"""Kills at random, under load, and what each of them cost."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2

from tests.long.dev import OwnDev
from tests.long.load import Load
from tests.oracle.wire import as_of

TARGETS = ("flow", "broker", "clickhouse", "postgres", "api", "worker")
#: A kill that is not got over by then is a failure.
RECOVERY_SECONDS = 90
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Kill:
    """`acknowledged_seconds`: until an event was acknowledged again; `counted_seconds`: until all before it counted."""

    targets: tuple[str, ...]
    acknowledged_seconds: float
    counted_seconds: float


@dataclass
class Killer:
    """Kills children of one `meterline dev` while a load runs."""

    dev: OwnDev
    load: Load
    source: random.Random
    done: list[Kill] = field(default_factory=list[Kill])

    @property
    def kills(self) -> int:
        return sum(len(kill.targets) for kill in self.done)

    def strike(self, targets: Sequence[str]) -> None:
        """Kill these at once, and return when events are acknowledged again and counted up to the kill."""
        struck = tuple(target for target in targets if self.dev.kill(target))
        if not struck:
            return
        moment, began = datetime.now(UTC), time.monotonic()
        acknowledged = counted = 0.0
        with self.dev.client(timeout=10) as api:
            while not (acknowledged and counted):
                waited = time.monotonic() - began
                assert waited < RECOVERY_SECONDS, f"after killing {struck}: {self._told(acknowledged)}\n{self._tail()}"
                assert not self.load.faults, "\n".join(self.load.faults)
                if not acknowledged and self.load.acknowledged_at > began:
                    acknowledged = self.load.acknowledged_at - began
                if not counted and _has_counted(api, moment):
                    counted = time.monotonic() - began
                time.sleep(LOOK_SECONDS)
        self.done.append(Kill(struck, acknowledged, counted))

    def strike_at_random(self) -> None:
        """One kill, and now and then two side by side, a moment into quiet running or into another's recovery."""
        time.sleep(self.source.uniform(0.1, 2.5))
        two = self.source.random() < 0.25
        self.strike(self.source.sample(TARGETS, 2 if two else 1))

    def table(self) -> str:
        """What was killed and what it cost."""
        lines = [f"{'killed':<24}{'times':>6}{'acknowledged again: mean, most':>34}{'counted: mean, most':>24}"]
        for targets in sorted({kill.targets for kill in self.done}, key=lambda names: (len(names), names)):
            of_these = [kill for kill in self.done if kill.targets == targets]
            acknowledged = [kill.acknowledged_seconds for kill in of_these]
            counted = [kill.counted_seconds for kill in of_these]
            lines.append(
                f"{' + '.join(targets):<24}{len(of_these):>6}"
                f"{sum(acknowledged) / len(of_these):>23.1f} s {max(acknowledged):>6.1f} s"
                f"{sum(counted) / len(of_these):>13.1f} s {max(counted):>6.1f} s"
            )
        entries = self.load.ledger.entries
        copies = sum(entry.copies for entry in entries.values())
        lines.append(
            f"{self.kills} processes killed; {len(entries)} events and {copies} copies in {self.load.requests} requests"
            f" and {self.load.retries} retries"
        )
        return "\n".join(lines)

    def _told(self, acknowledged: float) -> str:
        return "events are acknowledged, not counted" if acknowledged else "no event is acknowledged"

    def _tail(self) -> str:
        return self.dev.log()[-3000:]


def _has_counted(api: httpx2.Client, moment: datetime) -> bool:
    """Whether usage is complete up to the moment; no answer is a no."""
    try:
        found = as_of(api, "calls")
    except (httpx2.TransportError, AssertionError):
        return False
    return found is not None and found > moment
