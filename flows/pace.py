"""How long things gather before they go together: the longer, the more of them come.

A batch and an insert each cost something of their own, whatever their size. When little comes, that is cheap, and what
comes shows at once; when much comes, it is not, so fewer and larger ones keep up with more.
"""

MOST_TIMES = 4


def gathering_seconds(least_seconds: float, *, size: int, full: int) -> float:
    """From one round to the next, when the last had this size: `least_seconds` after nothing, MOST_TIMES as long after
    `full` or more, and in proportion between."""
    return least_seconds * (1 + (MOST_TIMES - 1) * min(size / full, 1.0))
