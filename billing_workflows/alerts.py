"""Alerts: every few seconds each is compared with what is stored, and what has crossed its threshold is told once.

No workflow does it: an alert that is looked at twice tells nothing twice, since a crossing's row is its key, and one
that nobody came to the end of is looked at again a few seconds later. Two workers share the alerts by their rows.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from billing_workflows.alert_values import find_crossings, has_crossed, wallet_balance
from billing_workflows.doors import Doors
from infra.crash_points import crash_point
from infra.postgres import alerts
from infra.postgres.pool import Row
from schemas.errors import Retry

LOOK_SECONDS = 1.0
INTERVAL = timedelta(seconds=5)  # between two looks at one alert
ALERTS_A_PAGE = 50
ALERTS_AT_ONCE = 4  # of a page, each with a connection: most of a look waits for ClickHouse
#: How long after its end a period is still looked at: usage of its last seconds is stored a little later.
LOOK_BACK = timedelta(minutes=10)

log = structlog.get_logger()


async def watch_alerts(doors: Doors, *, shards: int) -> None:
    """Look at all alerts again and again, until cancelled."""
    while True:
        try:
            while await asyncio.to_thread(look_at_alerts, doors, shards=shards, now=datetime.now(UTC)):
                pass
        except Retry as error:
            log.warning("alerts not looked at", error=str(error))
        except Exception as error:  # alerts must not end the worker, which bills
            log.error("alerts can't be looked at", exc_info=error)
        await asyncio.sleep(LOOK_SECONDS)


def look_at_alerts(doors: Doors, *, shards: int, now: datetime) -> int:
    """Look at a page of the alerts whose time has come; how many they were. `shards`: of the counters.

    One that can't be judged, of a meter that is too large to measure say, is logged and leaves the others alone.
    Raises Retry while a store is away.
    """
    with doors.database.transaction() as connection:
        taken = alerts.take_alerts(connection, now=now, every=INTERVAL, limit=ALERTS_A_PAGE)
    crash_point("alerts.taken")
    with ThreadPoolExecutor(ALERTS_AT_ONCE, thread_name_prefix="alerts") as threads:
        list(threads.map(partial(_judge, doors, shards=shards, now=now), taken))
    return len(taken)


def _judge(doors: Doors, alert: Row, *, shards: int, now: datetime) -> None:
    try:
        look_at(doors, alert, shards=shards, now=now)
    except Retry:
        raise
    except Exception as error:
        log.error("an alert can't be judged", alert=alert["id"], exc_info=error)


def look_at(doors: Doors, alert: Row, *, shards: int, now: datetime) -> None:
    """Judge one alert at `now`, and at the end of the look before, whose period may have ended meanwhile."""
    if alert["wallet_id"] is not None:
        with doors.database.transaction() as connection:
            crossing = wallet_balance(connection, alert, now)
            crossed = has_crossed(alert, crossing)
            alerts.save_balance(connection, alert, crossing, has_crossed=crossed, now=now)
            alerts.mark_judged(connection, alert_id=alert["id"], now=now)
        return
    since = max(alert["created_at"], alert["judged_at"] - LOOK_BACK)
    for page in find_crossings(doors, alert, shards=shards, now=now, since=min(since, now)):
        if page:
            with doors.database.transaction() as connection:
                alerts.save_crossings(connection, alert, page, now=now)
    with doors.database.transaction() as connection:
        alerts.mark_judged(connection, alert_id=alert["id"], now=now)
