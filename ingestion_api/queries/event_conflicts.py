"""Whether a later copy of an event says something else than the first: by value, not by text."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from infra.clickhouse.client import Client
from infra.clickhouse.event_copies import IDENTITIES_A_PAYLOAD_QUERY, Copies, Payload, load_copies, load_payloads
from infra.clickhouse.events import StoredEvent
from schemas.errors import Reject
from schemas.matching import UNREADABLE, parse_data

NO_COPIES = Copies(0, ())


@dataclass(frozen=True, slots=True)
class Compared:
    """The later copies of one event, and the fingerprints of those that say something else than the first."""

    copies: Copies = NO_COPIES
    differing: frozenset[int] = frozenset()

    @property
    def conflict(self) -> bool:
        return bool(self.differing)


def compare_copies(client: Client, *, tenant_no: int, events: Sequence[StoredEvent], limit: int) -> dict[str, Compared]:
    """The copies of those events that have any, by identity; up to `limit` of each, oldest first."""
    firsts = {event.identity: event for event in events}
    copied = load_copies(client, tenant_no=tenant_no, identities=sorted(firsts), limit=limit)
    compared: dict[str, Compared] = {}
    identities = list(copied)
    for start in range(0, len(identities), IDENTITIES_A_PAYLOAD_QUERY):
        page = identities[start : start + IDENTITIES_A_PAYLOAD_QUERY]
        payloads = load_payloads(client, tenant_no=tenant_no, identities=page)
        for identity in page:
            differing = frozenset(
                fingerprint
                for fingerprint, payload in payloads.get(identity, {}).items()
                if not says_the_same(firsts[identity], payload)
            )
            compared[identity] = Compared(copied[identity], differing)
    return compared


def says_the_same(first: StoredEvent, copy: Payload) -> bool:
    """Whether type, subject, data, extensions and time are equal. Numbers are equal as numbers: 1 is 1.0.

    A copy without a time claims none, so its time is not compared.
    """
    return (
        (first.type, first.subject) == (copy.type, copy.subject)
        and (copy.untimed or first.occurred_at == copy.occurred_at)
        and _same_object(first.data, copy.data)
        and _same_object(first.extensions, copy.extensions)
    )


def _same_object(left: str, right: str) -> bool:
    """Whether two texts are the same JSON object; no text is an empty one."""
    if left == right:
        return True
    try:
        return _same(parse_data(left or "{}"), parse_data(right or "{}"))
    except Reject:  # one of them can't be read, and its text is another
        return False


def _same(left: object, right: object) -> bool:
    """What can't be read equals nothing: its text, which might tell, is not at hand here."""
    if left is UNREADABLE or right is UNREADABLE:
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        mine, others = cast("dict[str, object]", left), cast("dict[str, object]", right)
        return mine.keys() == others.keys() and all(_same(value, others[name]) for name, value in mine.items())
    if isinstance(left, list) and isinstance(right, list):
        items, other_items = cast("list[object]", left), cast("list[object]", right)
        return len(items) == len(other_items) and all(map(_same, items, other_items))
    if _is_number(left) and _is_number(right):
        return left == right
    return type(left) is type(right) and left == right


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
