"""Quarantined events: somebody is told of them, and a flow that sets too many aside stops before it does.

A wrong meter, or a topic of another installation, makes every event quarantined. Nothing is lost by that, and yet
nothing counts: with a cap the flow stops instead, its events wait on the log, and a person decides.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np

from flows.attributed import Attributed, Status
from infra.postgres.quarantine import QuarantineNotice, Recent
from schemas.errors import InvariantBroken

IDS_A_NOTICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineCap:
    """Of the last `min_events` events, or up to twice as many, at most `max_percent` may be quarantined; 100: all."""

    max_percent: int
    min_events: int

    @property
    def is_set(self) -> bool:
        return self.max_percent < 100

    def admit(self, recent: Recent, judged: Attributed) -> Recent:
        """The counts with this batch. Raises InvariantBroken when it would bring the share beyond the cap.

        A batch that keeps to the share itself is let in whatever came before: once the cause is mended, things go on.
        """
        events, quarantined = len(judged.events), int((judged.status == Status.QUARANTINED).sum())
        now = Recent(events=recent.events + events, quarantined=recent.quarantined + quarantined)
        if now.events >= self.min_events and self._is_over(now) and self._is_over(Recent(events, quarantined)):
            code, count = Counter(judged.codes.values()).most_common(1)[0]
            raise InvariantBroken(
                "flow.too_many_quarantined",
                f"{now.quarantined} of the last {now.events} events would be quarantined, more than {self.max_percent}"
                f" %; in the next batch {count} of {events} for {code}. They wait on the log, nothing is lost: mend the"
                " cause (missing customers, a meter's value path, the wrong topic), or raise"
                " METERLINE_QUARANTINE_MAX_PERCENT, and start the flow again",
            )
        halved = now.events > 2 * self.min_events
        return Recent(now.events // 2, now.quarantined // 2) if halved else now

    def _is_over(self, counts: Recent) -> bool:
        return counts.quarantined * 100 > self.max_percent * counts.events


def notices_of(judged: Attributed) -> list[QuarantineNotice]:
    """What to tell each tenant, one notice a code."""
    rows: dict[tuple[int, str], list[int]] = {}
    for row in np.flatnonzero(judged.status == Status.QUARANTINED).tolist():
        rows.setdefault((int(judged.events.tenants[row]), judged.codes[row]), []).append(row)
    sources, ids = judged.events.sources, judged.events.ids
    return [
        QuarantineNotice(
            tenant_no=tenant_no,
            code=code,
            count=len(found),
            events=[{"source": sources[row].as_py(), "id": ids[row].as_py()} for row in islice(found, IDS_A_NOTICE)],
        )
        for (tenant_no, code), found in sorted(rows.items())
    ]
