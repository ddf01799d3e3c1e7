"""A control-plane API over real PostgreSQL, as tests talk to it: the app in this process, HTTP-like, no socket."""

import secrets
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.testclient import TestClient

from infra.clickhouse import client as clickhouse
from infra.kafka.changes import ChangeLog
from infra.migrate import migrate
from infra.postgres.pool import Database, connect
from infra.settings import Settings
from ingestion_api import clock
from ingestion_api.app import create_fastapi
from ingestion_api.auth import KeyCache
from ingestion_api.context import Context
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.stored import open_stored_usage
from ingestion_api.entitlements.streams import Streams
from schemas.instants import parse_instant

ROOT_KEY = "mtr_root-key-of-the-tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One instance of the app. `http` sends the operator's key unless told otherwise."""

    settings: Settings
    database: Database
    http: TestClient

    def post(self, path: str, body: Any, *, status: int = 201, **headers: str) -> Any:
        """The decoded answer of a POST that must have this status."""
        response = self.http.post(path, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})
        assert response.status_code == status, response.text
        return response.json()

    def get(self, path: str, *, status: int = 200, **params: Any) -> Any:
        """The decoded answer of a GET that must have this status."""
        response = self.http.get(path, params=params or None)
        assert response.status_code == status, response.text
        return response.json()

    def with_key(self, secret: str | None) -> TestClient:
        """A client of the same app with another key, or none."""
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return TestClient(self.http.app, raise_server_exceptions=False, headers=headers)

    @contextmanager
    def at(self, instant: str) -> Generator[None]:
        """Let it be this instant for every request inside the block."""
        overrides = self.http.app.dependency_overrides
        overrides[clock.now] = lambda: parse_instant(instant)
        try:
            yield
        finally:
            del overrides[clock.now]

    def new_tenant(self) -> "Api":
        """The same app as a new tenant's admin sees it."""
        tenant = self.post("/v1/tenants", {"name": f"tenant {secrets.token_hex(4)}"})
        return Api(settings=self.settings, database=self.database, http=self.with_key(tenant["api_key"]))


@contextmanager
def running_api(settings: Settings) -> Generator[Api]:
    """An API over these stores, migrated first."""
    settings = settings.model_copy(update={"root_key": ROOT_KEY, "event_change_wait_seconds": 0})
    store = clickhouse.connect(settings.clickhouse_url, answer_seconds=settings.api_store_timeout_seconds)
    with closing(connect(settings.postgres_dsn)) as connection:
        migrate(connection, store)
    database = Database(settings.postgres_dsn, answer_seconds=settings.api_store_timeout_seconds)
    stored_usage = open_stored_usage(settings)
    context = Context(
        settings=settings,
        database=database,
        clickhouse=store,
        stored_usage=stored_usage,
        keys=KeyCache(database, fresh_seconds=settings.api_key_cache_seconds),
        producer=None,
        changes=ChangeLog(settings.kafka_bootstrap, settings.events_topic, partitions=settings.events_partitions),
        started_at=datetime.now(UTC),
        replica=Replica(settings),
        streams=Streams(),
    )
    app = create_fastapi(context)
    headers = {"authorization": f"Bearer {ROOT_KEY}"}
    try:
        yield Api(
            settings=settings,
            database=database,
            http=TestClient(app, raise_server_exceptions=False, headers=headers),
        )
    finally:
        app.state.readier.close()
        stored_usage.close()
        store.close()
        database.close()
