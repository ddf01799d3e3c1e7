"""What is used of an entitlement in a period: the parts that shards have counted, as one quantity."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce

from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE, round_ratio

#: What counters hold. A time average moves by itself as time goes by: it is measured from stored usage.
COUNTED_BY = frozenset(Aggregation) - {Aggregation.WEIGHTED_SUM}

#: Of these a part holds the value that ranks highest. Nothing can be taken from it, and parts that shards of another
#: layout have counted don't fit in: a shard counts its partitions anew.
RANKED = frozenset({Aggregation.MIN, Aggregation.MAX, Aggregation.LATEST})

#: Compared number by number. A maximum ranks by the value, a minimum by the negative value, the latest value by time of
#: the event, time of receipt, partition, offset, index.
Rank = tuple[Decimal, ...]


@dataclass(frozen=True, slots=True)
class CounterPart:
    """What one shard has counted. `used` is the sum of its events' values, how many different ones it was the first to
    count, or the value with the highest `rank`; `events` is how many there are, of an average alone."""

    used: Decimal
    events: int = 0
    rank: Rank | None = None


def combine(aggregation: Aggregation, parts: Iterable[CounterPart]) -> Decimal:
    """What all shards together have counted; 0 when that is nothing. An average is rounded to 12 decimals."""
    known = list(parts)
    if aggregation in RANKED:
        ranked = [(part.rank, part.used) for part in known if part.rank is not None]
        return max(ranked)[1] if ranked else Decimal(0)
    total = reduce(EXACT.add, (part.used for part in known), Decimal(0))
    if aggregation is Aggregation.AVG:
        events = sum(part.events for part in known)
        return round_ratio(total, Decimal(events), MAX_SCALE) if events else Decimal(0)
    return total


def holds(aggregation: Aggregation, *, shard: int, shards: int, seeded_shards: int) -> bool:
    """Whether the part of a shard, seeded when there were so many, counts now that there are `shards`."""
    return aggregation not in RANKED or (seeded_shards == shards and shard < shards)
