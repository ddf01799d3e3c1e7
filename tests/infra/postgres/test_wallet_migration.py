"""The credit that customers of an old data folder have is found again in wallets."""

from infra.migrate import load_migrations
from infra.postgres.pool import connect
from infra.settings import Settings
from tests.support.stack import fresh_databases

MOVED_IN = "0004_wallets.sql"

OLD = b"""
INSERT INTO tenants (id, name, created_at) VALUES ('ten', 't', '2026-01-01Z');
INSERT INTO customers (id, tenant_id, external_id, name, timezone, created_at)
    SELECT name, 'ten', name, name, 'UTC', '2026-01-01Z' FROM (VALUES ('one'), ('two')) AS made (name);
INSERT INTO invoices (id, tenant_id, customer_id, kind, period_start, period_end, number, status, currency,
        subtotal_minor, discount_minor, tax_minor, total_minor, credits_applied_minor, amount_due_minor,
        created_at, finalized_at)
    SELECT 'inv' || n, 'ten', 'one', 'one_off', '2026-01-01Z', '2026-01-01Z', n, 'paid', 'USD', total, 0, 0, total,
           applied, 0, '2026-01-01Z', '2026-01-01Z'
    FROM (VALUES (1, -500, 0), (2, 300, 300), (3, -100, 0), (4, 250, 250), (5, -70, 0)) AS made (n, total, applied);
INSERT INTO customer_credits (invoice_id, tenant_id, customer_id, currency, amount_minor, reason, created_at)
VALUES ('inv1', 'ten', 'one', 'USD', 500, 'invoice', '2026-01-01Z'),
       ('inv2', 'ten', 'one', 'USD', -300, 'invoice', '2026-01-02Z'),
       ('inv2', 'ten', 'one', 'USD', 300, 'void', '2026-01-03Z'),
       ('inv3', 'ten', 'one', 'USD', 100, 'invoice', '2026-01-04Z'),
       ('inv4', 'ten', 'one', 'USD', -250, 'invoice', '2026-01-05Z'),
       ('inv5', 'ten', 'two', 'EUR', 70, 'invoice', '2026-01-04Z');
"""


def test_credit_of_customers_moves_into_wallets_entry_by_entry(stack: Settings) -> None:
    with connect(fresh_databases(stack).postgres_dsn) as connection:
        migrations = load_migrations("postgres")
        for migration in migrations:
            if migration.name < MOVED_IN:
                connection.execute(migration.text.encode())
        connection.execute(OLD)
        with connection.transaction():
            connection.execute(next(each.text for each in migrations if each.name == MOVED_IN).encode())
        wallets = connection.execute(
            "SELECT customer_id, currency, is_opened, granted_minor - overdraft_minor AS balance FROM wallets"
            " ORDER BY customer_id"
        ).fetchall()
        assert [tuple(row.values()) for row in wallets] == [("one", "USD", False, 350), ("two", "EUR", False, 70)]
        grants = connection.execute(
            "SELECT kind, status, amount_minor, granted_minor, burned_minor, expired_minor, balance_minor"
            " FROM wallet_grants ORDER BY amount_minor DESC"
        ).fetchall()
        assert [tuple(row.values()) for row in grants] == [
            ("credit", "active", 600, 600, 250, 0, 350),
            ("credit", "active", 70, 70, 0, 0, 70),
        ]
        transactions = connection.execute(
            "SELECT t.type, t.invoice_id, t.amount_minor, sum(e.amount_minor) AS zero, count(*) AS entries"
            " FROM wallet_transactions t JOIN wallet_entries e ON e.transaction_id = t.id GROUP BY t.id"
            " ORDER BY t.id"
        ).fetchall()
        assert [tuple(row.values()) for row in transactions if row["invoice_id"] != "inv5"] == [
            ("grant", "inv1", 500, 0, 2),
            ("invoice", "inv2", -300, 0, 2),
            ("invoice_void", "inv2", 300, 0, 2),
            ("grant", "inv3", 100, 0, 2),
            ("invoice", "inv4", -250, 0, 2),
        ]
