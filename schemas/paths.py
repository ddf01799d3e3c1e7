"""Paths into an event's data: `$.tokens`, `$.usage.input`, `$['user-id']`.

The singular names of RFC 9535 (JSONPath): a shorthand name begins with a letter, an underscore or a character beyond
ASCII and goes on with those and digits; any other name stands in brackets and quotes. There are no wildcards, indexes
or filters: a path names one place. A bare dash is no part of a name, since `$.a-$.b` is a subtraction.
"""

import re
from functools import lru_cache

MAX_PATH_LENGTH = 256  # characters
MAX_PATH_DEPTH = 8  # names

Path = tuple[str, ...]

_NAME = re.compile(r"\.([^\W\d]\w*)|\['([^'\\\x00-\x1f]+)'\]|\[\"([^\"\\\x00-\x1f]+)\"\]")
_REMEMBERED = 4096


@lru_cache(maxsize=_REMEMBERED)
def parse_path(text: str) -> Path:
    """The names that lead from the event's `data` to the value, at least one: `$.a.b` → ("a", "b").

    Remembered: the paths of meters come again with every event. Raises ValueError, with a sentence for the person who
    wrote it.
    """
    names, end = read_path(text, 0)
    if end != len(text):
        raise ValueError(f"{text!r} is not a path such as $.tokens, $.usage.input or $['user-id']")
    return names


def read_path(text: str, start: int) -> tuple[Path, int]:
    """The path that begins at `start`, and where it ends. Raises ValueError when none begins there."""
    names: list[str] = []
    position = start + 1
    while position < len(text) and (match := _NAME.match(text, position)):
        names.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    if not text.startswith("$", start) or not names:
        raise ValueError(f"{text!r} is not a path such as $.tokens, $.usage.input or $['user-id']")
    if position - start > MAX_PATH_LENGTH:
        raise ValueError(f"a path has at most {MAX_PATH_LENGTH} characters")
    if len(names) > MAX_PATH_DEPTH:
        raise ValueError(f"a path has at most {MAX_PATH_DEPTH} names")
    return tuple(names), position
