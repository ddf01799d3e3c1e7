"""Meters as the control plane makes and changes them, for tests that have only stores and flows."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from flows.builds import BuildDoors, build_waiting
from infra.clickhouse.client import connect as connect_clickhouse
from infra.postgres import meter_builds, meters
from infra.postgres.meter_builds import Reason
from infra.postgres.pool import Database, PgConnection
from infra.settings import Settings
from schemas.catalogue import MeterEntry
from schemas.ids import Prefix, new_id
from tests.support.usage_log import meter


def make_tenant(connection: PgConnection) -> tuple[str, int]:
    """A tenant's id and number."""
    row = connection.execute(
        "INSERT INTO tenants (id, name, created_at) VALUES (%s, 'tests', %s) RETURNING id, no",
        (new_id(Prefix.TENANT), datetime.now(UTC)),
    ).fetchone()
    assert row is not None
    return row["id"], row["no"]


def make_meter(connection: PgConnection, tenant_id: str, tenant_no: int, key: str, **fields: Any) -> MeterEntry:
    """A new meter, waiting to be built. `fields` as of `tests.support.usage_log.meter`."""
    asked = meter(0, **fields)
    now = datetime.now(UTC)
    with connection.transaction():
        row = meters.insert_meter(
            connection,
            meter_id=new_id(Prefix.METER),
            tenant_id=tenant_id,
            key=key,
            name=key,
            event_type=asked.event_type,
            aggregation=asked.aggregation,
            value=asked.value,
            filters=asked.filters,
            group_by=asked.group_by,
            metadata={},
            now=now,
            is_built=False,
        )
        assert row is not None
        entry = msgspec.structs.replace(asked, meter_no=row["no"])
        meter_builds.insert_revision(connection, meter=entry, reason=Reason.CREATED, now=now)
        meter_builds.begin(connection, tenant_no=tenant_no, meter=entry, superseded=[])
    return entry


def change_meter(connection: PgConnection, tenant_no: int, present: MeterEntry, **fields: Any) -> MeterEntry:
    """A new revision of a meter, waiting to be built in the place of any that is."""
    now = datetime.now(UTC)
    with connection.transaction():
        ended = meter_builds.supersede(connection, meter_no=present.meter_no, now=now)
        revision = meter_builds.next_revision(connection, meter_no=present.meter_no)
        entry = msgspec.structs.replace(present, revision=revision, **fields)
        meter_builds.insert_revision(connection, meter=entry, reason=Reason.CHANGED, now=now)
        meter_builds.begin(connection, tenant_no=tenant_no, meter=entry, superseded=ended)
    return entry


def finish_builds(settings: Settings) -> int:
    """Build every meter that waits for it, as the worker would; how many were built. Other tests may have left more
    of them in the same databases than one call builds."""
    database = Database(settings.postgres_dsn, max_connections=2)
    clickhouse = connect_clickhouse(settings.clickhouse_url)
    try:
        doors, built = BuildDoors(database=database, clickhouse=clickhouse), 0
        while found := build_waiting(doors):
            built += found
        return built
    finally:
        clickhouse.close()
        database.close()
