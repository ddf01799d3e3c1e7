"""Paths into an event's data: `$.tokens`, `$.usage.input`, `$['user-id']`.

The singular names of RFC 9535 (JSONPath): a shorthand name begins with a letter, an underscore or a character beyond
ASCII and goes on with those and digits; any other name stands in brackets and quotes. There are no wildcards, indexes
or filters: a path names one place. A bare dash is no part of a name, since `$.a-$.b` is a subtraction.
"""

import re

MAX_PATH_LENGTH = 256  # characters
MAX_PATH_DEPTH = 8  # names

_NAME = re.compile(r"\.([^\W\d]\w*)|\['([^'\\\x00-\x1f]+)'\]|\[\"([^\"\\\x00-\x1f]+)\"\]")


def parse_path(text: str) -> tuple[str, ...]:
    """The names that lead from the event's `data` to the value, at least one: `$.a.b` → ("a", "b").

    Raises ValueError, with a sentence for the person who wrote it.
    """
    if len(text) > MAX_PATH_LENGTH:
        raise ValueError(f"a path has at most {MAX_PATH_LENGTH} characters")
    names: list[str] = []
    position = 1
    while position < len(text) and (match := _NAME.match(text, position)):
        names.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    if not text.startswith("$") or not names or position != len(text):
        raise ValueError(f"{text!r} is not a path such as $.tokens, $.usage.input or $['user-id']")
    if len(names) > MAX_PATH_DEPTH:
        raise ValueError(f"a path has at most {MAX_PATH_DEPTH} names")
    return tuple(names)
