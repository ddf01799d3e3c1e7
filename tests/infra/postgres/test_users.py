from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from infra.migrate import migrate_postgres
from infra.postgres.pool import PgConnection, connect
from infra.postgres.tenants import insert_tenant
from infra.postgres.users import ensure_user, opens
from infra.settings import Settings

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def connection(fresh_stack: Settings) -> Iterator[PgConnection]:
    with connect(fresh_stack.postgres_dsn) as opened:
        migrate_postgres(opened)
        insert_tenant(opened, tenant_id="ten_a", name="A", now=NOW)
        yield opened


def hashes(connection: PgConnection) -> list[str]:
    return [row["password_hash"] for row in connection.execute("SELECT password_hash FROM users").fetchall()]


def ensure(connection: PgConnection, password: str) -> None:
    ensure_user(connection, tenant_id="ten_a", email="a@localhost", role="operator", password=password, now=NOW)


def test_the_password_given_last_opens_and_the_one_before_does_not(connection: PgConnection) -> None:
    ensure(connection, "first")
    (before,) = hashes(connection)
    ensure(connection, "first")
    assert hashes(connection) == [before], "nothing changed, nothing is written"
    ensure(connection, "second")
    (after,) = hashes(connection)
    assert opens(after, "second")
    assert not opens(after, "first")
    assert after.startswith("$argon2id$")
