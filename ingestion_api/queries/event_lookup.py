"""One event by the sender's id."""

from collections.abc import Iterator

from infra.clickhouse.client import Client
from infra.clickhouse.events import StoredEvent, find_events, list_sources
from infra.kafka.event_log import identity_hash
from ingestion_api.auth import Principal
from schemas.errors import MeterlineError, NotFound, Reject
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
            raise ambiguous(event_id)
        if found:
            return found[0]
    if len(sources) > MAX_SOURCES:
        raise source_needed(event_id)
    raise not_found(event_id)


def of_another_source(client: Client, principal: Principal, event_id: str) -> MeterlineError:
    """What to say of an event that was asked for without its source, and that the default one does not have."""
    sources = list_sources(client, tenant_no=principal.tenant_no, limit=MAX_SOURCES + 1)
    identities = [identity_hash(principal.tenant_no, source, event_id) for source in sources]
    found = find_events(client, tenant_no=principal.tenant_no, identities=identities) if identities else []
    having = sorted({event.source for event in found})
    if len(having) > 1:
        return ambiguous(event_id)
    if having:
        detail = f"The source {DEFAULT_SOURCE!r} has no event {event_id!r}, but {having[0]!r} has; name the source."
        return NotFound("event.not_found", detail)
    return source_needed(event_id) if len(sources) > MAX_SOURCES else not_found(event_id)


def ambiguous(event_id: str) -> Reject:
    return Reject.at("/source", "event.ambiguous", f"Several sources have an event {event_id!r}; name one.")


def source_needed(event_id: str) -> Reject:
    detail = f"There are more than {MAX_SOURCES} sources, too many to try for {event_id!r}; name its source."
    return Reject.at("/source", "event.source_needed", detail)


def not_found(event_id: str) -> NotFound:
    return NotFound("event.not_found", f"No event {event_id!r} is stored; one just accepted shows within a second.")


def _sources(client: Client, principal: Principal) -> Iterator[list[str]]:
    yield [DEFAULT_SOURCE]
    yield list_sources(client, tenant_no=principal.tenant_no, limit=MAX_SOURCES + 1)
