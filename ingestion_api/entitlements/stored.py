"""Stored usage for checks, which are rather decided without it than waiting long."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from infra.clickhouse import client as clickhouse
from infra.clickhouse.client import ClickHouseError, Client, took_too_long
from infra.clickhouse.usage import usage_totals
from infra.clickhouse.usage_query import Span, SpanUsage
from infra.settings import Settings
from schemas.catalogue import MeterEntry

#: For so long after ClickHouse did not answer nobody asks it but one, so that a server that hangs does not hold a
#: thread for every check.
AWAY_NANOS = 2_000_000_000
GRACE_SECONDS = 1  # for the server's word that a query took too long; else a heavy one looks like a server that hangs


class StoredUsage:
    """Safe for threads. Waits for each answer of ClickHouse no longer than its client does."""

    def __init__(self, client: Client, *, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._client = client
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._away_until: int | None = None  # None: it answered when it was last asked

    def totals(
        self, *, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
    ) -> dict[Span, SpanUsage]:
        """As `usage_totals`. Raises ClickHouseError at once while ClickHouse is known to be away."""
        self._stop_if_away()
        try:
            totals = usage_totals(self._client, tenant_no=tenant_no, meters=meters, spans=spans)
        except ClickHouseError as error:
            self._away_until = None if _is_answer(error) else self._monotonic() + AWAY_NANOS
            raise
        self._away_until = None
        return totals

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _stop_if_away(self) -> None:
        with self._lock:
            now = self._monotonic()
            if self._away_until is None:
                return
            if now < self._away_until:
                raise ClickHouseError("ClickHouse did not answer a moment ago.")
            self._away_until = now + AWAY_NANOS  # the others wait for what this one finds


def open_stored_usage(settings: Settings) -> StoredUsage:
    """With a client of its own, which has less patience than that of other reads."""
    seconds = settings.check_store_timeout_seconds
    return StoredUsage(clickhouse.connect(settings.clickhouse_url, answer_seconds=seconds, slack_seconds=GRACE_SECONDS))


def _is_answer(error: ClickHouseError) -> bool:
    """Whether the server itself said so: what one asks is too much or wrong, and the others may go on asking."""
    return getattr(error, "code", None) is not None or took_too_long(error)
