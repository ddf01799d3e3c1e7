"""Which endpoints want which events: by type, by a prefix such as `invoice.*`, or all by `*`."""

import re
from collections.abc import Iterable

from schemas.topics import SystemEvent

ALL = "*"

_PATTERN = re.compile(r"[a-z_]+(\.[a-z_]+)*(\.\*)?")


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Whether one of the patterns names the type. `invoice.*` names `invoice.paid`, and not `invoice` itself."""
    return any(
        pattern in (ALL, event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def names_something(pattern: str) -> bool:
    """Whether an event that exists can match; a misspelt pattern would be silence."""
    return pattern == ALL or (
        _PATTERN.fullmatch(pattern) is not None and any(wants([pattern], event_type) for event_type in SystemEvent)
    )
