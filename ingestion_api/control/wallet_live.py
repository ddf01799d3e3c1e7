"""The live balance of a wallet: its balance less what the usage of the open periods costs so far."""

from datetime import datetime
from decimal import Decimal

from infra.postgres.billing import load_subscriptions
from infra.postgres.pool import Row
from infra.postgres.wallets.rows import load_billed_subscriptions
from ingestion_api.context import Context
from ingestion_api.control.preview import Draft, make_draft, price_draft, to_running
from pricing.statements import next_statement, unbilled_at
from pricing.terms import read_terms
from schemas.money import EXACT


def running_cost(context: Context, wallet: Row, now: datetime) -> Decimal | None:
    """What the usage that is not invoiced yet costs, of all subscriptions whose invoices the wallet would pay.

    The amounts are those of the subscriptions' running usage, before discounts and taxes of the invoice. None when
    there are too many subscriptions to add up. No connection to PostgreSQL is held while ClickHouse works.
    """
    drafts = _load_drafts(context, wallet, now)
    if drafts is None:
        return None
    total = Decimal(0)
    for draft in drafts:
        total = EXACT.add(total, Decimal(to_running(price_draft(context, draft))["total"]))
    return total


def _load_drafts(context: Context, wallet: Row, now: datetime) -> list[Draft] | None:
    """Of each subscription the statement that is to be issued next, and the one that covers `now`: a period that has
    just ended is not invoiced yet."""
    with context.database.transaction() as connection:
        ids = load_billed_subscriptions(connection, customer_id=wallet["customer_id"], currency=wallet["currency"])
        if ids is None:
            return None
        drafts: list[Draft] = []
        for subscription in load_subscriptions(connection, ids):
            terms = read_terms(subscription)
            found = {
                statement.at: statement
                for statement in (next_statement(terms), unbilled_at(terms, now))
                if statement is not None and statement.has_usage
            }
            drafts += [make_draft(connection, context, subscription, terms, each) for each in found.values()]
        return drafts
