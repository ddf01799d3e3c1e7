"""`meterline doctor --ledger`: do invoices, payments, credit notes, numbers, wallets and billed periods add up?"""

import json

import typer

from infra.postgres.billing import count_parked
from infra.postgres.invariants.check import RULES, find_broken
from infra.postgres.invariants.progress import count_standing, is_migrated, load_begun
from infra.postgres.pool import PostgresError, connect
from infra.settings import Settings


def check_ledger(settings: Settings, *, as_json: bool) -> int:
    """Look at every rule and show what breaks it; 0 when all hold."""
    if not settings.postgres_dsn:
        typer.echo("No stack runs here: start `meterline dev`, or set METERLINE_POSTGRES_DSN.", err=True)
        return 1
    try:
        with connect(settings.postgres_dsn) as connection:
            broken = find_broken(connection)
    except PostgresError as error:
        typer.echo(f"PostgreSQL did not answer: {error}", err=True)
        return 1
    if as_json:
        rules = [{"rule": rule, "ids": broken.get(rule, [])} for rule in RULES]
        typer.echo(json.dumps({"ok": not broken, "rules": rules}))
        return 1 if broken else 0
    for rule in RULES:
        typer.echo(f"{rule}: {', '.join(broken[rule])}" if rule in broken else f"{rule}: none")
    return 1 if broken else 0


def ask_invariants(dsn: str) -> tuple[bool, str]:
    """Whether all rules held at the worker's last check, and what to show of it. Raises PostgresError."""
    with connect(dsn) as connection:
        if not is_migrated(connection):
            return True, "not checked yet"
        standing, begun, parked = count_standing(connection), load_begun(connection), count_parked(connection)
    waits = f"; parked subscriptions: {parked}, see docs/runbook.md" if parked else ""
    if standing:
        found = ", ".join(f"{rule} ({objects})" for rule, objects in standing.items())
        return False, f"broken: {found}; see `meterline doctor --ledger` and docs/runbook.md{waits}"
    checked = begun.get("recent")
    state = "not checked yet" if checked is None else f"all hold, checked {checked:%Y-%m-%d %H:%M:%S} UTC"
    return True, state + waits
