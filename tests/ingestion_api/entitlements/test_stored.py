from contextlib import closing
from datetime import UTC, datetime

import pytest

from infra.clickhouse.client import ClickHouseError, Client
from infra.clickhouse.usage_query import Span
from ingestion_api.entitlements import stored as stored_usage
from ingestion_api.entitlements.stored import AWAY_NANOS, StoredUsage, open_stored_usage
from tests.support.api import Api
from tests.support.usage_log import meter

SPAN = Span(customer_no=1, meter_no=1, start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 2, 1, tzinfo=UTC))


def _ask(stored: StoredUsage) -> bool:
    """Whether the answer is there: that nothing is stored."""
    return stored.totals(tenant_no=1, meters={1: meter(1)}, spans=[SPAN])[SPAN].whole is None


def test_while_clickhouse_is_away_one_asks_it_and_the_others_need_not_wait(
    operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    with closing(open_stored_usage(operator.settings)) as opened:
        stored = StoredUsage(opened._client, monotonic=lambda: now[0])
        assert _ask(stored)
        with monkeypatch.context() as patch:
            patch.setattr(opened._client._backend, "_base_url", "http://127.0.0.1:9/")  # no setting of a client in use
            for _ in range(2):
                with pytest.raises(ClickHouseError, match=r"127\.0\.0\.1"):
                    _ask(stored)
                with pytest.raises(ClickHouseError, match="a moment ago"):
                    _ask(stored)
                now[0] += AWAY_NANOS
            with pytest.raises(ClickHouseError, match=r"127\.0\.0\.1"):
                _ask(stored)
        with pytest.raises(ClickHouseError, match="a moment ago"):
            _ask(stored)
        now[0] += AWAY_NANOS
        assert _ask(stored)
        assert _ask(stored)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", "TIMEOUT_EXCEEDED"),
        ("SELECT intDiv(1, 0)", "DIVI"),
    ],
)
def test_what_one_asks_too_much_of_clickhouse_keeps_nobody_else_from_asking(
    operator: Api, monkeypatch: pytest.MonkeyPatch, query: str, reason: str
) -> None:
    def ask_it(client: Client, **_: object) -> object:
        return client.query(query)

    with closing(open_stored_usage(operator.settings)) as stored:
        with monkeypatch.context() as patch:
            patch.setattr(stored_usage, "usage_totals", ask_it)
            with pytest.raises(ClickHouseError, match=reason):
                _ask(stored)
        assert _ask(stored)
