"""A watch on the number of distinct groups a meter has: too many are counted all the same, and reported."""

from collections.abc import Iterator

import numpy as np
import structlog

from flows.attributed import Attributed
from flows.combine import Minutes
from flows.metrics import GROUPS_OVER_LIMIT
from schemas.catalogue import MeterEntry
from schemas.meters import BY_VALUE

log = structlog.get_logger()

#: The groups of some rows of a batch, as codes of `Attributed.texts`.
Groups = set[tuple[int, ...]]


class GroupWatch:
    """Remembers the groups of each meter, as readers use it, up to the limit, since the start of the process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by: dict[int, tuple[str, ...]] = {}
        self._seen: dict[int, set[int]] = {}
        self._over: set[int] = set()

    def watch(self, judged: Attributed, combined: list[Minutes]) -> list[MeterEntry]:
        """Meters that have passed the limit just now; each comes once a process, and again once it is grouped by other
        properties."""
        texts = list(judged.texts)
        passed: list[MeterEntry] = []
        for meter, groups in _groups(judged, combined):
            number = meter.meter_no
            if not meter.active:
                continue
            if self._by.get(number) != meter.group_by:
                self._by[number] = meter.group_by
                self._seen[number] = set()
                self._over.discard(number)
            if number in self._over:
                continue
            seen = self._seen[number]
            seen |= {hash(tuple(texts[code] for code in group)) for group in groups}
            if len(seen) > self._limit:
                self._over.add(number)
                del self._seen[number]
                passed.append(meter)
                GROUPS_OVER_LIMIT.labels(str(number)).inc()
                log.warning("a meter has more groups than the limit", meter_no=number, limit=self._limit)
        return passed


def _groups(judged: Attributed, combined: list[Minutes]) -> Iterator[tuple[MeterEntry, Groups]]:
    """The groups that the batch has of each grouped meter: of minutes, or of single values where there are none."""
    for minutes in combined:
        if minutes.groups:
            yield minutes.meter, set(zip(*(column.tolist() for column in minutes.groups), strict=True))
    for taken in judged.contributions:
        if taken.groups and taken.meter.aggregation in BY_VALUE:
            distinct = np.unique(np.stack(taken.groups, axis=1), axis=0)
            yield taken.meter, set(map(tuple, distinct.tolist()))
    for giant in judged.giants:
        if giant.groups and giant.meter.aggregation in BY_VALUE:
            yield giant.meter, {giant.groups}
