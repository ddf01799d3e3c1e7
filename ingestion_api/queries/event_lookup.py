"""One event by the sender's id."""

from collections.abc import Iterator

from infra.clickhouse.client import Client
from infra.clickhouse.events import StoredEvent, find_events, list_sources
from infra.kafka.event_log import identity_hash
from ingestion_api.auth import Principal
from schemas.errors import NotFound, Reject
from schemas.events import DEFAULT_SOURCE

MAX_SOURCES = 100  # tried for an event that is asked for without its source


def find(client: Client, principal: Principal, event_id: str, source: str | None) -> StoredEvent:
    """The tenant's event. Without a source the default one is tried, then all that the tenant has sent from.

    Raises NotFound, and Reject when several sources have such an event, or more sources may than are tried.
    """
    sources: list[str] = []
    for sources in [[source]] if source else _sources(client, principal):
        identities = [identity_hash(principal.tenant_no, each, event_id) for each in sources]
        found = find_events(client, tenant_no=principal.tenant_no, identities=identities) if identities else []
        if len({event.source for event in found}) > 1:
            raise Reject.at("/source", "event.ambiguous", f"Several sources have an event {event_id!r}; name one.")
        if found:
            return found[0]
    if len(sources) > MAX_SOURCES:
        detail = f"There are more than {MAX_SOURCES} sources, too many to try for {event_id!r}; name its source."
        raise Reject.at("/source", "event.source_needed", detail)
    raise not_found(event_id)


def not_found(event_id: str) -> NotFound:
    return NotFound("event.not_found", f"No event {event_id!r} is stored; one just accepted shows within a second.")


def _sources(client: Client, principal: Principal) -> Iterator[list[str]]:
    yield [DEFAULT_SOURCE]
    yield list_sources(client, tenant_no=principal.tenant_no, limit=MAX_SOURCES + 1)
