"""A tenant with meters, customers and stored events, as the flow would have left them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.migrate import migrate_clickhouse
from infra.postgres.meters import load_meter
from infra.postgres.pool import connect as connect_postgres
from ingestion_api.control.meters import to_entry
from schemas.catalogue import MeterEntry
from tests.infra.clickhouse.rows import StoredEvent, store_copies, store_events
from tests.support.api import Api


@dataclass(frozen=True)
class Tenant:
    """`customers` and `meters` by their own keys."""

    api: Api
    clickhouse: Client
    no: int
    customers: dict[str, int]
    meters: dict[str, MeterEntry]

    def store(self, events: Sequence[StoredEvent], *, seq: int = 1, redo: bool = False) -> None:
        """As a flow that knows all meters; a type without a meter adds to none."""
        known = [
            replace(event, meters=[each for each in self.meters.values() if each.event_type == event.type])
            for event in events
        ]
        store_events(self.clickhouse, known, seq=seq, redo=redo, tenant_no=self.no)

    def store_copies(self, events: Sequence[StoredEvent], *, seq: int = 2) -> None:
        store_copies(self.clickhouse, events, seq=seq, tenant_no=self.no)


@pytest.fixture(scope="session")
def clickhouse(operator: Api) -> Iterator[Client]:
    client = connect_clickhouse(operator.settings.clickhouse_url)
    migrate_clickhouse(client)
    yield client
    client.close()


@pytest.fixture
def tenant(api: Api, clickhouse: Client) -> Tenant:
    """Meters `tokens` (a sum by model) and `calls` (a count) of the type `call`; customers acme and umbrella."""
    api.post(
        "/v1/meters",
        {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "$.tokens", "group_by": ["model"]},
    )
    api.post("/v1/meters", {"key": "calls", "event_type": "call", "aggregation": "count"})
    ids = [
        api.post("/v1/customers", {"external_id": name, "name": name, "currency": "USD"})["id"]
        for name in ("acme", "umbrella")
    ]
    with connect_postgres(api.settings.postgres_dsn) as connection:
        rows = connection.execute(
            "SELECT customers.no, external_id, tenants.no AS tenant_no, tenants.id AS tenant_id"
            " FROM customers JOIN tenants ON tenants.id = tenant_id WHERE customers.id = ANY(%s)",
            (ids,),
        ).fetchall()
        meters: dict[str, MeterEntry] = {}
        for key in ("tokens", "calls"):
            row = load_meter(connection, tenant_id=rows[0]["tenant_id"], reference=key)
            assert row is not None
            meters[key] = to_entry(row)
    return Tenant(api, clickhouse, rows[0]["tenant_no"], {row["external_id"]: row["no"] for row in rows}, meters)
