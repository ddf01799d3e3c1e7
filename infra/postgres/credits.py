"""Customer credit, seen from outside: how much a customer's wallets hold, and credit that is given to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.postgres.pool import PgConnection
from infra.postgres.wallets.state import look_at_wallets
from pricing.wallets import catch_up
from schemas.money import from_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditEntry:
    """Credit that a customer is owed by an invoice, or by a credit note of it."""

    tenant_id: str
    customer_id: str
    currency: str
    amount_minor: int  # more than 0
    invoice_id: str
    credit_note_id: str | None = None


def load_balances(
    connection: PgConnection, *, customer_ids: Sequence[str], now: datetime | None = None
) -> dict[str, dict[str, Decimal]]:
    """The balances of each of these customers by currency; a currency without a wallet is absent.

    `now`: with what starts, refills and expires by then; without, as the ledger has it.
    """
    rows = connection.execute(
        "SELECT w.*, c.timezone, c.external_id FROM wallets w JOIN customers c ON c.id = w.customer_id"
        " WHERE w.customer_id = ANY(%s)",
        (list(customer_ids),),
    ).fetchall()
    balances: dict[str, dict[str, Decimal]] = {customer_id: {} for customer_id in customer_ids}
    if not rows:
        return balances
    for wallet in look_at_wallets(connection, rows):
        if now is not None:
            catch_up(wallet.state, now)
        currency = wallet.row["currency"]
        balances[wallet.row["customer_id"]][currency] = from_minor(wallet.state.balance_minor, currency)
    return balances
