"""An API process over stores of its own, and a flow's part in it played by hand."""

import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from starlette.testclient import TestClient

from flows.balances import BalanceTeller
from infra.postgres.counters import CounterChange, CounterRow, SeededBy, add_to_counters, insert_counters
from infra.postgres.pool import PgConnection
from infra.settings import Settings
from ingestion_api.asgi import MeterlineApp
from ingestion_api.context import Context
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.replica import Replica

KEY = "mtr_key-of-the-replica-tests"
WAIT_SECONDS = 40
names = (f"customer-{number}" for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Process:
    """An API process over stores of its own, and a flow's part in it, played by hand."""

    http: TestClient
    replica: Replica
    connection: PgConnection
    teller: BalanceTeller
    settings: Settings
    numbers: Iterator[int]

    def post(self, path: str, body: Any, status: int = 201, **headers: str) -> Any:
        answer = self.http.post(path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def ask(self, customer: str, feature: str, quantity: str | None = None) -> Any:
        return self.post("/v1/entitlements/check", asking(customer, feature, quantity), 200)

    def ask_postgres(self, customer: str, feature: str, quantity: str | None = None) -> Any:
        name = uuid.uuid4().hex
        return self.post(
            "/v1/entitlements/check", asking(customer, feature, quantity), 200, **{"idempotency-key": name}
        )

    def knows(self, customer: str, feature: str) -> bool:
        """Whether memory alone has the answer."""
        context = context_of(self.http)
        principal = context.keys.lookup(KEY)
        asked = [Ask(customer, feature, None)]
        found = self.replica.answer(
            context.stored_usage, asked, tenant_id=principal.tenant_id, tenant_no=principal.tenant_no, now=utc_now()
        )
        return found is not None

    def wait_until_known(self, customer: str, feature: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.knows(customer, feature):
            assert time.monotonic() < deadline, "the replica never knew"
            time.sleep(0.02)

    def count(
        self,
        customer: str,
        feature: str,
        used: str,
        *,
        start: datetime | None = None,
        tell: bool = True,
        seed: bool = False,
    ) -> None:
        """What a flow does with a batch, for one counter: that of the first period, or of the one with this start."""
        seq, now = next(self.numbers), utc_now()
        with self.connection.transaction():
            row = self.connection.execute(
                "SELECT e.no, e.starts_at FROM entitlements e JOIN customers c ON c.id = e.customer_id"
                " JOIN features f ON f.id = e.feature_id WHERE c.external_id = %s AND f.key = %s",
                (customer, feature),
            ).fetchone()
            assert row is not None
            change = CounterChange(
                entitlement_no=row["no"],
                period_start=start or row["starts_at"],
                meter_revision=1,
                quantity=Decimal(used),
            )
            rows: list[CounterRow]
            if seed:
                rows = insert_counters(self.connection, by=SeededBy(shard=0, shards=1), seq=seq, changes=[change])
            else:
                rows = add_to_counters(self.connection, shard=0, seq=seq, changes=[change])
            self.connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until)"
                " SELECT %s, p, 0, %s FROM generate_series(0, %s) AS p"
                " ON CONFLICT (topic, partition) DO UPDATE SET counted_until = excluded.counted_until",
                (self.settings.events_topic, now, self.settings.events_partitions - 1),
            )
        if tell:
            until = dict.fromkeys(range(self.settings.events_partitions), now)
            self.teller.tell(rows, seq=seq, until=until)


def context_of(http: TestClient) -> Context:
    app = http.app
    assert isinstance(app, MeterlineApp)
    return app._context  # pyright: ignore[reportPrivateUsage]


def asking(customer: str, feature: str, quantity: str | None) -> dict[str, str]:
    body = {"customer": customer, "feature": feature}
    return body if quantity is None else {**body, "quantity": quantity}


def utc_now() -> datetime:
    return datetime.now(UTC)


def make_catalogue(process: Process) -> None:
    process.post("/v1/meters", {"key": "tokens", "event_type": "t", "aggregation": "sum", "value": "$.n"})
    process.post("/v1/features", {"key": "tokens", "type": "metered", "meter": "tokens"})
    process.post("/v1/features", {"key": "sso", "type": "boolean"})
    process.post("/v1/features", {"key": "beta", "type": "boolean"})
    for key, limit in (("small", "10"), ("large", "1000.5")):
        granted = [{"feature": "tokens", "limit": limit, "reset": "never"}, {"feature": "sso"}]
        process.post("/v1/plans", {"key": key, "currency": "USD", "prices": [], "entitlements": granted})


def once_as_of(process: Process, customer: str, instant: datetime) -> Any:
    """The first answer that speaks for all up to an instant."""
    deadline = time.monotonic() + WAIT_SECONDS
    while datetime.fromisoformat((answer := process.ask(customer, "tokens"))["as_of"]) < instant:
        assert time.monotonic() < deadline
    return answer
