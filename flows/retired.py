"""Windows that nobody reads any more: of revisions that readers have left, and of builds that were superseded."""

from datetime import datetime, timedelta

from infra.clickhouse.client import Client
from infra.clickhouse.past import remove_windows
from infra.postgres.meter_builds import load_retired, mark_swept
from infra.postgres.pool import Database

#: A query or a proof that began before the switch may read them so long; flows write no more of them by then, either.
KEPT = timedelta(hours=1)
REVISIONS_AT_ONCE = 20


def remove_retired(database: Database, clickhouse: Client, *, now: datetime) -> int:
    """Have windows removed that have been out of use for KEPT, a bounded part of them; of how many revisions.

    What is removed twice, after a crash between the two stores, does no harm. Raises ClickHouseError.
    """
    with database.transaction() as connection:
        retired = load_retired(connection, before=now - KEPT, limit=REVISIONS_AT_ONCE)
    for meter_no, revision in retired:
        remove_windows(clickhouse, meter_no=meter_no, revision=revision)
        with database.transaction() as connection:
            mark_swept(connection, meter_no=meter_no, revision=revision, now=now)
    return len(retired)
