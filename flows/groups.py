"""A watch on the number of distinct groups a meter has: too many are counted all the same, and reported."""

import structlog

from flows.attribute import Attributed
from flows.combine import Minutes
from flows.metrics import GROUPS_OVER_LIMIT

log = structlog.get_logger()


class GroupWatch:
    """Remembers the groups of each meter up to the limit, since the start of the process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[int, set[int]] = {}
        self._over: set[int] = set()

    def watch(self, judged: Attributed, combined: list[Minutes]) -> None:
        """Report, once a meter, that it has passed the limit."""
        texts = list(judged.texts)
        for minutes in combined:
            number = minutes.meter.meter_no
            if not minutes.groups or number in self._over:
                continue
            seen = self._seen.setdefault(number, set())
            codes = set(zip(*(column.tolist() for column in minutes.groups), strict=True))
            seen |= {hash(tuple(texts[code] for code in group)) for group in codes}
            if len(seen) > self._limit:
                self._over.add(number)
                del self._seen[number]
                GROUPS_OVER_LIMIT.labels(str(number)).inc()
                log.warning("a meter has more groups than the limit", meter_no=number, limit=self._limit)
