"""Lists: newest first, keyset pages. A cursor is the id of the last object of the page before."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from infra.postgres.pool import Row
from ingestion_api.views import ListView
from schemas.errors import NotFound, Reject

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_LONG_LIMIT = 1_000  # events and usage
MAX_CURSOR_LENGTH = 256

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many objects the page has at most.")]
LongLimit = Annotated[int, Query(ge=1, le=MAX_LONG_LIMIT, description="How many objects the page has at most.")]
StartingAfter = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR_LENGTH,
        description="`next_cursor` of the page before, or the id or own key of its last object.",
    ),
]

View = TypeVar("View")


def check_cursor(starting_after: str | None, prefix: str) -> str | None:
    """The id after which a list goes on. Raises Reject when it is no id of this kind of object."""
    if starting_after is None:
        return None
    if not starting_after.isascii() or not starting_after.startswith(f"{prefix}_") or "\0" in starting_after:
        raise Reject.at("/starting_after", "request.invalid_field", f"Give `next_cursor` or an id (`{prefix}_…`).")
    return starting_after


def find_cursor(starting_after: str | None, prefix: str, find: Callable[[str], Row]) -> str | None:
    """The id after which a list goes on, given by an id or by the object's own key. Raises Reject when it is neither.

    `find` gives the object that either of them names, and raises NotFound. An id need not exist any more.
    """
    if starting_after is None:
        return None
    try:
        return str(find(starting_after)["id"])
    except NotFound:
        return check_cursor(starting_after, prefix)


def page(rows: Sequence[Row], limit: int, to_view: Callable[[Row], View], *, cursor: str = "id") -> ListView[View]:
    """The answer of a list, from up to `limit` + 1 rows: the row too many says that there is more."""
    shown = rows[:limit]
    has_more = len(rows) > limit
    return {
        "object": "list",
        "data": [to_view(row) for row in shown],
        "has_more": has_more,
        "next_cursor": str(shown[-1][cursor]) if has_more else None,
    }
