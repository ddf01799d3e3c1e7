"""Customer credit, seen from outside: how much a customer's wallets hold, and credit that is given to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.postgres.pool import PgConnection
from infra.postgres.wallets.state import look_at_wallets
from pricing.wallets import catch_up
from schemas.money import from_minor

#: More than any invoice: what a wallet that may be negative pays.
UNLIMITED = Decimal(10) ** 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditEntry:
    """Credit that a customer is owed by an invoice, or by a credit note of it."""

    tenant_id: str
    customer_id: str
    currency: str
    amount_minor: int  # more than 0
    invoice_id: str
    credit_note_id: str | None = None


def load_balances(connection: PgConnection, *, customer_ids: Sequence[str]) -> dict[str, dict[str, Decimal]]:
    """The balances of each of these customers by currency, as the ledger has them; a currency without a wallet is
    absent."""
    rows = connection.execute(
        "SELECT customer_id, currency, granted_minor - overdraft_minor AS balance_minor FROM wallets"
        " WHERE customer_id = ANY(%s)",
        (list(customer_ids),),
    )
    balances: dict[str, dict[str, Decimal]] = {customer_id: {} for customer_id in customer_ids}
    for row in rows:
        balances[row["customer_id"]][row["currency"]] = from_minor(row["balance_minor"], row["currency"])
    return balances


def load_spendable(connection: PgConnection, *, customer_id: str, currency: str, at: datetime) -> Decimal:
    """What would pay an invoice of this customer at an instant, should nothing else happen until then: grants that
    start or refill by then count, those that expire do not."""
    row = connection.execute(
        "SELECT w.*, c.timezone, c.external_id FROM wallets w JOIN customers c ON c.id = w.customer_id"
        " WHERE w.customer_id = %s AND w.currency = %s",
        (customer_id, currency),
    ).fetchone()
    if row is None:
        return Decimal(0)
    if row["allow_negative"]:
        return UNLIMITED
    [wallet] = look_at_wallets(connection, [row])
    catch_up(wallet.state, at)
    return from_minor(max(wallet.state.balance_minor, 0), currency)
