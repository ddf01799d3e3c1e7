"""Migrations of both stores: `schemas/sql/*/NNNN_name.sql`, applied once, in order, forward only.

The text of an applied file is checksummed: an edited one stops the run. PostgreSQL applies each file in one transaction
under an advisory lock; ClickHouse has no transactions, so each of its statements must bear being run again.
"""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from infra.clickhouse.client import Client
from infra.postgres.pool import PgConnection
from schemas.errors import InvariantBroken

ADVISORY_LOCK = 0x4D45_5445  # "METE": one migration at a time in a cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()


def load_migrations(store: str) -> list[Migration]:
    """The files of one store ("postgres" or "clickhouse") in their order."""
    folder = files("schemas") / "sql" / store
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(name=name, text=(folder / name).read_text(encoding="utf-8")) for name in names]


def _pending(migrations: list[Migration], applied: dict[str, str]) -> list[Migration]:
    for migration in migrations:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise InvariantBroken(
                "migration.changed",
                f"{migration.name} was applied with another text; migrations are never edited: add a new file",
            )
    return [migration for migration in migrations if migration.name not in applied]


def migrate_postgres(connection: PgConnection) -> list[str]:
    """Apply what is missing and return the names. Concurrent callers wait for each other."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = connection.execute("SELECT name, checksum FROM migrations").fetchall()
        pending = _pending(load_migrations("postgres"), {row["name"]: row["checksum"] for row in rows})
        for migration in pending:
            connection.execute(migration.text.encode())
            connection.execute(
                "INSERT INTO migrations (name, checksum) VALUES (%s, %s)", (migration.name, migration.checksum)
            )
    return [migration.name for migration in pending]


def migrate_clickhouse(client: Client) -> list[str]:
    """Apply what is missing and return the names. Call it under the lock of `migrate`, never alone from two places."""
    client.command(
        "CREATE TABLE IF NOT EXISTS migrations (name String, checksum String, applied_at DateTime DEFAULT now())"
        " ENGINE = ReplacingMergeTree ORDER BY name"
    )
    rows = client.query("SELECT name, checksum FROM migrations FINAL").result_rows
    pending = _pending(load_migrations("clickhouse"), {str(name): str(checksum) for name, checksum in rows})
    for migration in pending:
        for statement in split_statements(migration.text):
            client.command(statement)
        client.insert("migrations", [[migration.name, migration.checksum]], column_names=["name", "checksum"])
    return [migration.name for migration in pending]


def split_statements(text: str) -> list[str]:
    """Statements of a ClickHouse file: separated by a semicolon at the end of a line, comment lines dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip(" \n;")]


def migrate(connection: PgConnection, client: Client) -> list[str]:
    """Bring both stores up to date, one caller at a time, and return the names of what was applied."""
    connection.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK + 1,))
    try:
        return migrate_postgres(connection) + migrate_clickhouse(client)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (ADVISORY_LOCK + 1,))
