"""The process: it ends cleanly when told to, and with a reason when something is broken."""

import pytest

from tests.support.usage_log import WAIT_SECONDS, Sent, UsageLog, meter, wait_for


def test_sigterm_ends_with_status_0_after_the_batch_in_hand(log: UsageLog) -> None:
    log.customers({"acme": 1})
    log.meters(meter(1))
    log.send([Sent(id=f"e{index}", data={"tokens": 1}) for index in range(500)])
    flow = log.start_flow(flow_insert_ms="60000")  # only the end makes it store what came after the first insert
    wait_for(lambda: moved(log) == log.messages, "the first commit")
    flow.terminate()
    assert flow.wait(WAIT_SECONDS) == 0, flow.logged()
    assert '"flow ended"' in flow.logged()
    assert len(log.events()) == 500


def moved(log: UsageLog) -> int:
    row = log.postgres.execute("SELECT coalesce(sum(next_offset), 0)::bigint AS n FROM shard_offsets").fetchone()
    assert row is not None
    return row["n"]


@pytest.mark.parametrize(
    ("setting", "address", "code"),
    [
        ("clickhouse_url", "http://default@127.0.0.1:9/none", "store.unavailable"),
        ("postgres_dsn", "postgresql://127.0.0.1:9/none", "store.unavailable"),
        ("kafka_bootstrap", "127.0.0.1:9", "broker.unavailable"),
    ],
)
def test_a_store_that_is_away_ends_it_with_status_1_and_one_line_of_reason(
    log: UsageLog, setting: str, address: str, code: str
) -> None:
    flow = log.start_flow(**{setting: address})
    assert flow.wait(WAIT_SECONDS) == 1, flow.logged()
    [line] = [line for line in flow.logged().splitlines() if "flow stopped" in line]
    assert code in line
    assert "Traceback" not in flow.logged()
    assert "exc_info" not in line
    assert '"exception"' not in line
