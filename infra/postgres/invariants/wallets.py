"""Rules of wallets: the ledger is zero, and what wallets and grants say is the sum of their entries."""

from typing import LiteralString

from infra.postgres.invariants.rule import Of, Rule

_ENTRIES: LiteralString = (
    " FROM wallet_transactions t JOIN wallet_entries e ON e.transaction_id = t.id WHERE t.wallet_id = ANY(%(ids)s)"
)
_ADVICE = "Stop using the wallet, and compare GET /v1/wallets/{id}/transactions with what stands in its tables."

RULES = (
    Rule(
        name="wallet.ledger_is_not_zero",
        of=Of.WALLET,
        query="SELECT t.wallet_id AS id FROM wallet_transactions t LEFT JOIN wallet_entries e"
        " ON e.transaction_id = t.id WHERE t.wallet_id = ANY(%(ids)s) GROUP BY t.id"
        " HAVING coalesce(sum(e.amount_minor), 1) <> 0"
        " OR coalesce(sum(e.amount_minor) FILTER (WHERE e.account IN ('balance', 'overdraft')), 0) <> t.amount_minor",
        advice=_ADVICE,
    ),
    Rule(
        name="wallet.grants_differ_from_entries",
        of=Of.WALLET,
        query="SELECT g.wallet_id AS id FROM wallet_grants g LEFT JOIN (SELECT e.grant_id,"  # noqa: S608 - texts of this file
        " sum(e.amount_minor) AS balance_minor" + _ENTRIES + " AND e.account = 'balance' GROUP BY e.grant_id) s"
        " ON s.grant_id = g.id WHERE g.wallet_id = ANY(%(ids)s)"
        " AND (g.balance_minor <> coalesce(s.balance_minor, 0) OR g.balance_minor < 0"
        " OR g.granted_minor <> g.burned_minor + g.balance_minor + g.expired_minor)",
        advice=_ADVICE,
    ),
    Rule(
        name="wallet.balance_differs_from_entries",
        of=Of.WALLET,
        query="SELECT w.id FROM wallets w LEFT JOIN (SELECT t.wallet_id,"  # noqa: S608 - texts of this file
        " sum(e.amount_minor) AS balance_minor"
        + _ENTRIES
        + " AND e.account IN ('balance', 'overdraft') GROUP BY t.wallet_id) s ON s.wallet_id = w.id"
        " WHERE w.id = ANY(%(ids)s) AND (w.granted_minor - w.overdraft_minor <> coalesce(s.balance_minor, 0)"
        " OR (w.overdraft_minor > 0 AND NOT w.allow_negative))",
        advice=_ADVICE,
    ),
)
