"""Windows of a revision that nobody uses any more."""

from datetime import UTC, datetime

from infra.clickhouse.client import Client, connect
from infra.clickhouse.past import remove_windows
from infra.settings import Settings
from tests.support.usage_log import wait_for

MINUTE = datetime(2026, 3, 10, tzinfo=UTC)
IMPATIENT_SECONDS = 3  # far less than a removal that ClickHouse does not come to


def revisions(client: Client) -> list[int]:
    rows = client.query("SELECT revision FROM usage_minutes WHERE meter_no = 5 ORDER BY revision").result_rows
    return [revision for (revision,) in rows]


def test_nobody_waits_for_the_removal_of_windows_and_it_is_done_all_the_same(
    clickhouse: Client, stack: Settings
) -> None:
    clickhouse.insert("usage_minutes", [[5, revision, 1, MINUTE, [], 0, 1, 1, 1] for revision in (1, 2)])
    address, _, _ = stack.clickhouse_url.rpartition("/")
    impatient = connect(f"{address}/{clickhouse.database}", answer_seconds=IMPATIENT_SECONDS)
    remove_windows(impatient, meter_no=5, revision=1)
    impatient.close()
    assert revisions(clickhouse) == [1, 2], "the merges stand still"
    for table in ("usage_minutes", "usage_values"):
        clickhouse.command(f"SYSTEM START MERGES {table}")
    wait_for(lambda: revisions(clickhouse) == [2], "the windows are removed")
