"""What came late to what was billed, from both stores: ClickHouse knows what changed, PostgreSQL what was billed."""

from collections.abc import Collection, Sequence

from infra.clickhouse.client import Client
from infra.clickhouse.late_usage import find_late
from infra.postgres.billed_usage import load_billed_since
from infra.postgres.pool import Database
from schemas.billing import BilledUsage, Watched


def load_late(
    database: Database, client: Client, watched: Sequence[Watched], shards: Collection[int]
) -> dict[str, list[BilledUsage]]:
    """By subscription, the billed usage that is to be measured again. One query to each store, and none to PostgreSQL
    when nothing came late; call it outside of any transaction."""
    if not watched or not shards:
        return {}
    late = find_late(client, watched, shards)
    if not late:
        return {}
    with database.transaction() as connection:
        found = load_billed_since(connection, late, until={each.subscription_id: each.until for each in watched})
    by_subscription: dict[str, list[BilledUsage]] = {}
    for billed in found:
        by_subscription.setdefault(billed.subscription_id, []).append(billed)
    return by_subscription
