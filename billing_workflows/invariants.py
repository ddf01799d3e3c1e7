"""Checking invariants: which objects are looked at next, and what is done with what is found."""

from datetime import datetime, timedelta

import structlog
from prometheus_client import Gauge

from infra.postgres.invariants.check import ORDER, check_page, recheck, record
from infra.postgres.invariants.progress import load_begun, save_ended
from infra.postgres.invariants.rule import Of
from infra.postgres.pool import Database
from schemas.instants import format_instant, parse_instant
from schemas.workflows import InvariantPlace

BROKEN = Gauge("meterline_invariants_broken", "Objects that break a rule of billing, as the last check saw it.")

log = structlog.get_logger()


def check(database: Database, place: InvariantPlace, *, full_after: timedelta, now: datetime) -> InvariantPlace:
    """Look at one page of objects of one kind, in one transaction; where to go on. May be repeated."""
    with database.transaction() as connection:
        if not place.of:
            begun = load_begun(connection)
            is_full = "full" not in begun or begun["full"] <= now - full_after
            since = "" if is_full else format_instant(begun["recent"])
            place = InvariantPlace(of=ORDER[0], since=since, begun_at=format_instant(now))
        of = Of(place.of)
        page = check_page(connection, of, after=place.after, since=parse_instant(place.since) if place.since else None)
        new = record(connection, of, page.broken, now=now)
        following = ORDER[ORDER.index(of) + 1 :]
        is_done = page.last is None and not following
        broken = place.broken + len(new)
        if is_done:
            broken = recheck(connection)
            begun_at = parse_instant(place.begun_at)
            save_ended(connection, is_full=not place.since, begun_at=begun_at, now=now)
    for each in new:
        log.error("an invariant is broken", invariant=each)
    if is_done:
        BROKEN.set(broken)
    return InvariantPlace(
        of=place.of if page.last is not None or is_done else following[0],
        after=page.last or "",
        since=place.since,
        begun_at=place.begun_at,
        checked=place.checked + page.objects,
        broken=broken,
        is_done=is_done,
    )
