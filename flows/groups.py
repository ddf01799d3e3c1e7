"""A watch on the number of distinct groups a meter has: too many are counted all the same, and reported."""

from collections.abc import Iterator

import numpy as np
import structlog

from flows.attributed import Attributed
from flows.combine import Minutes
from flows.metrics import GROUPS_OVER_LIMIT
from schemas.meters import BY_VALUE

log = structlog.get_logger()

#: The groups of some rows of a batch, as codes of `Attributed.texts`.
Groups = set[tuple[int, ...]]


class GroupWatch:
    """Remembers the groups of each meter up to the limit, since the start of the process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[int, set[int]] = {}
        self._over: set[int] = set()

    def watch(self, judged: Attributed, combined: list[Minutes]) -> list[int]:
        """The numbers of meters that have passed the limit just now; each comes once a process."""
        texts = list(judged.texts)
        passed: list[int] = []
        for number, groups in _groups(judged, combined):
            if number in self._over:
                continue
            seen = self._seen.setdefault(number, set())
            seen |= {hash(tuple(texts[code] for code in group)) for group in groups}
            if len(seen) > self._limit:
                self._over.add(number)
                del self._seen[number]
                passed.append(number)
                GROUPS_OVER_LIMIT.labels(str(number)).inc()
                log.warning("a meter has more groups than the limit", meter_no=number, limit=self._limit)
        return passed


def _groups(judged: Attributed, combined: list[Minutes]) -> Iterator[tuple[int, Groups]]:
    """The groups that the batch has of each grouped meter: of minutes, or of single values where there are none."""
    for minutes in combined:
        if minutes.groups:
            yield minutes.meter.meter_no, set(zip(*(column.tolist() for column in minutes.groups), strict=True))
    for taken in judged.contributions:
        if taken.groups and taken.meter.aggregation in BY_VALUE:
            distinct = np.unique(np.stack(taken.groups, axis=1), axis=0)
            yield taken.meter.meter_no, set(map(tuple, distinct.tolist()))
    for giant in judged.giants:
        if giant.groups and giant.meter.aggregation in BY_VALUE:
            yield giant.meter.meter_no, {giant.groups}
