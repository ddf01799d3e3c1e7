"""Wallets of a small world: opened and filled as the API does it, and their ledger looked at."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from billing_workflows.due import load_page, run_chunk
from infra.postgres.due import Moment
from infra.postgres.invariants.check import ask
from infra.postgres.invariants.rule import Of
from infra.postgres.invoice_issue import Issued, NewInvoice, issue_invoices
from infra.postgres.pool import PgConnection, Row
from infra.postgres.wallets.rows import update_wallet
from infra.postgres.wallets.save import due_at, save_wallets
from infra.postgres.wallets.state import make_wallet, open_wallet, open_wallets
from pricing.one_off import price_one_off
from pricing.wallets import WalletGrant, catch_up
from schemas.ids import Prefix, new_id
from schemas.wallets import GrantKind, GrantStatus
from schemas.workflows import WALLETS
from tests.support.billing import World, instant

OWN: dict[Of, LiteralString] = {
    Of.WALLET: "SELECT id FROM wallets WHERE tenant_id = %s",
    Of.INVOICE: "SELECT id FROM invoices WHERE tenant_id = %s",
    Of.SUBSCRIPTION: "SELECT id FROM subscriptions WHERE tenant_id = %s",
}


def add_customer(world: World, *, clock_id: str | None = None) -> str:
    """A customer of the world, by id."""
    customer_id = new_id(Prefix.CUSTOMER)
    world.rows(
        "INSERT INTO customers (id, tenant_id, external_id, name, timezone, created_at, test_clock_id)"
        " VALUES (%(id)s, %(tenant)s, %(id)s, %(id)s, 'UTC', %(now)s, %(clock)s) RETURNING id",
        id=customer_id,
        tenant=world.tenant_id,
        now=instant("2026-01-01"),
        clock=clock_id,
    )
    return customer_id


def add_wallet(world: World, customer_id: str, *, now: str = "2026-01-01", **settings: Any) -> str:
    """A wallet in USD, by id. `settings` are columns."""
    with world.doors.database.transaction() as connection:
        open_wallets(connection, [customer_id])
        customer = connection.execute("SELECT * FROM customers WHERE id = %s", (customer_id,)).fetchone()
        assert customer is not None
        wallet = make_wallet(
            wallet_id=new_id(Prefix.WALLET),
            customer=customer,
            currency="USD",
            name="USD",
            is_opened=True,
            now=instant(now),
        )
        wallet.row |= settings
        save_wallets(connection, [wallet], now=instant(now))
        row = wallet.row
        update_wallet(
            connection,
            wallet_id=wallet.state.id,
            name=row["name"],
            allow_negative=row["allow_negative"],
            low_balance_minor=row["low_balance_minor"],
            is_low=row["is_low"],
            auto_top_up=row["auto_top_up"],
            metadata={},
            due_at=due_at(wallet, instant(now)),
        )
    return wallet.state.id


def fill(world: World, wallet_id: str, amount_minor: int, *, now: str = "2026-01-01", **terms: Any) -> str:
    """Give a wallet a grant, by id. `terms` are those of `WalletGrant`."""
    given: dict[str, Any] = {
        "id": new_id(Prefix.GRANT),
        "kind": GrantKind.PROMOTIONAL,
        "amount_minor": amount_minor,
        "priority": 50,
        "effective_at": instant(now),
        "status": GrantStatus.SCHEDULED,
        "is_new": True,
    }
    grant = WalletGrant(**{**given, **terms})
    with world.doors.database.transaction() as connection:
        wallet = open_wallet(connection, tenant_id=world.tenant_id, wallet_id=wallet_id)
        assert wallet is not None
        wallet.state.grants[grant.id] = grant
        wallet.postings += catch_up(wallet.state, instant(now))
        save_wallets(connection, [wallet], now=instant(now))
    return grant.id


def invoice(
    connection: PgConnection, world: World, customer_ids: Sequence[str], amount: str, *, now: datetime
) -> list[Issued]:
    """One one-off invoice of this amount for each of the customers, finalized in one transaction."""
    terms = {"currency": "USD", "lines": [{"description": "work", "amount": amount}]}
    return issue_invoices(
        connection,
        [
            NewInvoice(
                tenant_id=world.tenant_id,
                customer_id=customer_id,
                external_id=customer_id,
                subscription_id=None,
                invoice=price_one_off(terms, now=now),
                as_of=None,
                is_draft=False,
            )
            for customer_id in customer_ids
        ],
        now=now,
    )


def due_wallets(world: World, now: str, *, clock_id: str | None = None) -> list[str]:
    """This tenant's wallets on the first page of what is due."""
    page = load_page(world.doors, WALLETS, Moment(now=instant(now), clock_id=clock_id), after=None)
    own = {row["id"] for row in world.rows("SELECT id FROM wallets WHERE tenant_id = %(t)s", t=world.tenant_id)}
    return [wallet_id for chunk in page.chunks for wallet_id in chunk if wallet_id in own]


def run_due(world: World, now: str, *, clock_id: str | None = None) -> int:
    """Do what is due of this tenant's wallets; how many had something."""
    ids = due_wallets(world, now, clock_id=clock_id)
    return run_chunk(world.doors, WALLETS, ids, Moment(now=instant(now), clock_id=clock_id)).done


def ledger(world: World, wallet_id: str) -> list[tuple[str, int, datetime]]:
    """The transactions of a wallet, oldest first: type, change, instant."""
    rows = world.rows("SELECT * FROM wallet_transactions WHERE wallet_id = %(id)s ORDER BY id", id=wallet_id)
    return [(row["type"], row["amount_minor"], row["occurred_at"]) for row in rows]


def check_books(world: World) -> None:
    """Every invariant of the tenant's wallets and invoices, asked of the store."""
    with world.doors.database.transaction() as connection:
        for of, query in OWN.items():
            ids = [row["id"] for row in connection.execute(query, (world.tenant_id,))]
            assert ask(connection, of, ids) == {}


def grant_row(world: World, grant_id: str) -> Row:
    return world.rows("SELECT * FROM wallet_grants WHERE id = %(id)s", id=grant_id)[0]


def wallet_row(world: World, wallet_id: str) -> Row:
    return world.rows("SELECT * FROM wallets WHERE id = %(id)s", id=wallet_id)[0]
