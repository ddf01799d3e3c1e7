"""The one place of the API that reads a clock. A handler takes `now: Now` and hands it down.

What concerns a customer happens at *its* now: a handler that has found the customer (or its subscription, wallet, …)
asks `clock_now` once and uses the answer from there on in the place of `now`:

    now = clock_now(connection, customer["test_clock_id"], call.now)

What concerns the request and not the customer (keys kept, the outbox' own order, ids) stays with the real `now`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends

from infra.postgres.pool import PgConnection
from infra.postgres.test_clocks import hold_clock, load_nows


def now() -> datetime:
    """This instant, in UTC. The one instant of a request: FastAPI calls it once and shares the answer."""
    return datetime.now(UTC)


Now = Annotated[datetime, Depends(now)]


def clock_now(connection: PgConnection, clock_id: str | None, now: datetime, *, hold: bool = False) -> datetime:
    """What a customer of this test clock takes for now: what the clock shows. Without a clock it is `now` itself, and
    no store is asked.

    `hold`: the clock stands still until the caller's transaction ends. For a change that must not fall behind a bill
    run which has gone on meanwhile.
    """
    if clock_id is None:
        return now
    return hold_clock(connection, clock_id) if hold else load_nows(connection, [clock_id])[clock_id]


def clock_nows(
    connection: PgConnection, clock_ids: Iterable[str | None], now: datetime
) -> Mapping[str | None, datetime]:
    """The same for many at once, by clock; `nows[None]` is `now`."""
    wanted = {clock_id for clock_id in clock_ids if clock_id is not None}
    nows: dict[str | None, datetime] = {None: now}
    if wanted:
        nows.update(load_nows(connection, sorted(wanted)))
    return nows
