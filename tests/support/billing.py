"""A small world to bill: a tenant, a meter, plans, customers and subscriptions in PostgreSQL, events in ClickHouse.

Rows of events and windows are written as the usage flow writes them, in batches with a shard and a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import md5
from typing import Any

import msgspec

from billing_workflows.billing import Doors, bill_chunk
from billing_workflows.due import load_page
from infra.clickhouse.client import connect as connect_clickhouse
from infra.migrate import migrate
from infra.postgres.billing import load_meters
from infra.postgres.customers import insert_customer, load_customer
from infra.postgres.due import Moment
from infra.postgres.invoices import list_invoices, load_lines
from infra.postgres.jsonb import jsonb
from infra.postgres.meters import insert_meter
from infra.postgres.plans import insert_plan, insert_version
from infra.postgres.pool import Database, Row, connect
from infra.postgres.shards import claim_partitions, next_seq
from infra.postgres.subscriptions import cancel_subscription, insert_subscription
from infra.settings import Settings
from schemas.billing import BilledSubscription
from schemas.catalogue import MeterEntry
from schemas.ids import Prefix, new_id
from schemas.instants import MINUTE_MICROS, from_micros, to_micros
from schemas.matching import event_value, parse_data
from schemas.money import EXACT
from schemas.workflows import BILLS, ChunkResult

EVENT_TYPE = "llm.request"
METER = "tokens"
SHARD = 0
NUMBERS = msgspec.json.Encoder(decimal_format="number")

ADVANCE = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
USAGE = {"key": "tokens", "type": "usage", "meter": METER, "model": "per_unit", "unit_amount": "0.01"}


def instant(text: str) -> datetime:
    """UTC midnight of a day, or an instant."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class World:
    """One tenant and its doors."""

    settings: Settings
    doors: Doors
    tenant_id: str
    tenant_no: int
    meter: MeterEntry
    next_seq: int

    def subscribe(
        self,
        *prices: Mapping[str, Any],
        start_at: str = "2026-01-01",
        external_id: str | None = None,
        beside: BilledSubscription | None = None,
        **terms: Any,
    ) -> BilledSubscription:
        """A new customer, or that of the subscription `beside`, on a new plan of these prices (default: a base fee and
        usage), due at its start."""
        now = instant(start_at)
        customer_id = new_id(Prefix.CUSTOMER) if beside is None else beside.customer_id
        plan_id = new_id(Prefix.PLAN)
        bodies = [dict(price) for price in prices or (ADVANCE, USAGE)]
        name = external_id or customer_id
        with self.doors.database.transaction() as connection:
            if beside is None:
                insert_customer(
                    connection,
                    customer_id=customer_id,
                    tenant_id=self.tenant_id,
                    external_id=name,
                    name=name,
                    email=None,
                    currency="USD",
                    timezone="UTC",
                    metadata={},
                    now=now,
                )
            customer = load_customer(connection, tenant_id=self.tenant_id, reference=customer_id)
            assert customer is not None
            insert_plan(
                connection,
                plan_id=plan_id,
                tenant_id=self.tenant_id,
                key=plan_id,
                name=plan_id,
                currency="USD",
                metadata={},
                now=now,
            )
            insert_version(connection, plan_id=plan_id, prices=bodies, entitlements=[], now=now)
            subscription = BilledSubscription(
                **{
                    "id": new_id(Prefix.SUBSCRIPTION),
                    "row_version": "",
                    "tenant_id": self.tenant_id,
                    "tenant_no": self.tenant_no,
                    "customer_id": customer_id,
                    "customer_no": customer["no"],
                    "external_id": customer["external_id"],
                    "plan_id": plan_id,
                    "plan_version": 1,
                    "prices": bodies,
                    "status": "active",
                    "currency": "USD",
                    "timezone": "UTC",
                    "start_at": now,
                    "billing_anchor": now,
                    "alignment": "anniversary",
                    "quantities": {},
                    "price_overrides": {},
                    "discounts": [],
                    "commitment": None,
                    "end_at": None,
                    "cancel_at": None,
                    "cancel_proration": False,
                    "billed_until": None,
                    "next_bill_at": now,
                    **terms,
                }
            )
            insert_subscription(connection, subscription, metadata={}, now=now)
        return subscription

    def use(self, subscription: BilledSubscription, *events: tuple[str, object], windows: bool = True) -> None:
        """Store events (instant, tokens) of the customer as one batch; without `windows` a flow has lost them."""
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        rows: list[list[Any]] = []
        minutes: dict[int, list[Any]] = {}
        for index, (at, tokens) in enumerate(events):
            micros = to_micros(instant(at))
            data = NUMBERS.encode({"tokens": tokens}).decode()
            identity = md5(f"{seq}/{index}".encode(), usedforsecurity=False).digest()
            rows.append(
                [self.tenant_no, identity, seq, from_micros(micros), EVENT_TYPE, data, subscription.customer_no]
            )
            minute = minutes.setdefault(micros // MINUTE_MICROS, [0, Decimal(0)])
            minute[0] += 1
            value = event_value(self.meter, parse_data(data))
            assert value is not None
            minute[1] = EXACT.add(minute[1], value)
        self.doors.clickhouse.insert(
            "events",
            [
                [no, identity, 0, seq, 0, SHARD, seq, at, at, "api", "e", kind, "s", data, "", customer, "counted", ""]
                for no, identity, seq, at, kind, data, customer in rows
            ],
            column_names=EVENT_COLUMNS,
        )
        if windows:
            self.doors.clickhouse.insert(
                "usage_minutes",
                [
                    [
                        self.meter.meter_no,
                        1,
                        subscription.customer_no,
                        from_micros(minute * MINUTE_MICROS),
                        [],
                        SHARD,
                        seq,
                        *sums,
                    ]
                    for minute, sums in minutes.items()
                ],
            )
        with self.doors.database.transaction() as connection:
            connection.execute("UPDATE shards SET next_seq = %s", (self.next_seq,))

    def stored_until(self, at: str) -> None:
        """Let usage be complete up to an instant."""
        with self.doors.database.transaction() as connection:
            connection.execute("UPDATE shard_offsets SET stored_until = %s", (instant(at),))

    def bill(self, *subscriptions: BilledSubscription, now: str) -> ChunkResult:
        """One chunk, without Temporal."""
        return bill_chunk(self.doors, [subscription.id for subscription in subscriptions], Moment(now=instant(now)))

    def due(self, now: str) -> list[str]:
        """Which subscriptions of this tenant are on the first page of what is due."""
        page = load_page(self.doors, BILLS, Moment(now=instant(now)), after=None)
        own = {
            row["id"] for row in self.rows("SELECT id FROM subscriptions WHERE tenant_id = %(id)s", id=self.tenant_id)
        }
        return [subscription_id for chunk in page.chunks for subscription_id in chunk if subscription_id in own]

    def cancel(self, subscription: BilledSubscription, at: str, *, prorate: bool = False) -> None:
        """What the API writes for a cancellation at an instant that is no later than the next statement's."""
        with self.doors.database.transaction() as connection:
            cancel_subscription(
                connection,
                subscription_id=subscription.id,
                cancel_at=instant(at),
                prorate=prorate,
                next_bill_at=instant(at),
                usage_due=True,
            )

    def invoices(self, subscription: BilledSubscription | None = None) -> list[Row]:
        """Invoices with their `lines`, oldest first."""
        with self.doors.database.transaction() as connection:
            rows = list_invoices(
                connection,
                tenant_id=self.tenant_id,
                subscription_id=None if subscription is None else subscription.id,
                limit=100_000,
            )
            lines = load_lines(connection, [row["id"] for row in rows])
        return [{**row, "lines": lines[row["id"]]} for row in reversed(rows)]

    def row(self, subscription: BilledSubscription) -> Row:
        return self.rows("SELECT * FROM subscriptions WHERE id = %(id)s", id=subscription.id)[0]

    def rows(self, query: str, **values: object) -> Sequence[Row]:
        """What a query gives; changes must return something too."""
        with self.doors.database.transaction() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def close(self) -> None:
        """Let nothing of this tenant be due any more, and close the doors."""
        self.rows("UPDATE subscriptions SET next_bill_at = NULL WHERE tenant_id = %(t)s RETURNING 1", t=self.tenant_id)
        self.doors.database.close()
        self.doors.clickhouse.close()


EVENT_COLUMNS = [
    *("tenant_no", "hash", "kafka_partition", "kafka_offset", "kafka_index", "shard", "seq", "received_at"),
    *("occurred_at", "source", "id", "type", "subject", "data", "extensions", "customer_no", "status", "code"),
]


def make_world(settings: Settings, *, grace: timedelta = timedelta(hours=1)) -> World:
    """A new tenant with one meter that sums tokens, in stores that are migrated; nothing is stored, nothing pending."""
    clickhouse = connect_clickhouse(settings.clickhouse_url)
    with connect(settings.postgres_dsn) as connection:
        migrate(connection, clickhouse)
    database = Database(settings.postgres_dsn, max_connections=4)
    now = instant("2025-01-01")
    tenant_id = new_id(Prefix.TENANT)
    with database.transaction() as connection:
        tenant = connection.execute(
            "INSERT INTO tenants (id, name, settings, created_at) VALUES (%s, %s, %s, %s) RETURNING no",
            (tenant_id, "acme", jsonb({}), now),
        ).fetchone()
        insert_meter(
            connection,
            meter_id=new_id(Prefix.METER),
            tenant_id=tenant_id,
            key=METER,
            name=METER,
            event_type=EVENT_TYPE,
            aggregation="sum",
            value="$.tokens",
            filters=[],
            group_by=[],
            metadata={},
            now=now,
        )
        partitions = range(settings.events_partitions)
        claim_partitions(connection, topic=settings.events_topic, shard=SHARD, partitions=partitions)
        connection.execute("DELETE FROM intents")
        connection.execute("UPDATE shard_offsets SET stored_until = '-infinity'")
        seq = next_seq(connection, shard=SHARD)
        found = load_meters(connection, [tenant_id])
    assert tenant is not None
    doors = Doors(
        database=database,
        clickhouse=clickhouse,
        grace=grace,
        chunk_size=100,
        events_topic=settings.events_topic,
        events_partitions=settings.events_partitions,
    )
    return World(
        settings=settings,
        doors=doors,
        tenant_id=tenant_id,
        tenant_no=tenant["no"],
        meter=found[tenant_id, METER],
        next_seq=seq,
    )
