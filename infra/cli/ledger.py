"""`meterline doctor --ledger`: do invoices, their lines, payments, credit notes and numbers add up?"""

import json

import typer

from infra.postgres.invoice_invariants import RULES, find_broken
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
