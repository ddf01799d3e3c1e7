"""Each rule of billing is broken once by hand, and found. Rows are written as somebody would past Meterline: with
triggers off and the constraints in the way dropped, in a transaction that is rolled back."""

# ruff: noqa: S608 - statements are made of texts of this file

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import LiteralString

import pytest

from billing_workflows.invariants import check
from infra.postgres.invariants.check import RULES, ask, check_page, find_broken
from infra.postgres.invariants.rule import Of
from infra.postgres.pool import PgConnection, Row
from infra.settings import Settings
from schemas.workflows import InvariantPlace
from tests.support.billing import ADVANCE, USAGE, World, instant, make_world
from tests.support.stack import fresh_databases
from tests.support.wallets import add_customer, add_wallet, fill, invoice

NOW = instant("2026-06-01")
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def world(stack: Settings) -> Iterator[World]:
    """A customer with a wallet, an invoice that it paid, and a subscription with usage of two months billed."""
    made = make_world(fresh_databases(stack))
    subscription = made.subscribe(ADVANCE, USAGE)
    made.stored_until("2026-05-01")
    for month in ("2026-01-01", "2026-02-01", "2026-03-01"):
        made.bill(subscription, now=month)
    customer_id = add_customer(made)
    fill(made, add_wallet(made, customer_id), 5_000)
    with made.doors.database.transaction() as connection:
        invoice(connection, made, [customer_id], "20", now=NOW)
        invoice(connection, made, [customer_id], "100", now=NOW)
    yield made
    made.close()


class Undo(Exception):
    pass


@contextmanager
def undone(world: World) -> Generator[PgConnection]:
    """A transaction in which anything may be written, and that leaves nothing behind."""
    with pytest.raises(Undo), world.doors.database.transaction() as connection:  # noqa: PT012 - what is within is the test
        connection.execute("SET LOCAL session_replication_role = replica")
        yield connection
        raise Undo


PAID: LiteralString = " (SELECT id FROM invoices WHERE status = 'paid' AND credits_applied_minor > 0)"
OPEN: LiteralString = " (SELECT id FROM invoices WHERE status = 'open' AND credits_applied_minor > 0)"
NOTE: LiteralString = (
    "INSERT INTO credit_notes (id, tenant_id, invoice_id, customer_id, number, kind, currency, amount_minor, tax_minor,"
    " adjusted_minor, credit_minor, refund_minor, taxes, created_at) SELECT 'crn_1', tenant_id, id, customer_id,"
    " 'CN-1', 'adjustment', currency, 100, 0, 100, 0, 0, '[]', now() FROM invoices WHERE id =" + OPEN
)
PAYMENT: LiteralString = (
    "INSERT INTO payments (id, tenant_id, invoice_id, customer_id, currency, amount_minor, provider, status,"
    " created_at, succeeded_at) SELECT 'pay_1', tenant_id, id, customer_id, currency, 100, 'manual', 'succeeded',"
    " now(), now() FROM invoices WHERE id ="
)
REFUND: LiteralString = (
    "INSERT INTO refunds (id, tenant_id, payment_id, status, ask_at, created_at, credit_note_id, amount_minor)"
    " VALUES ('rfd_1', (SELECT tenant_id FROM payments WHERE id = 'pay_1'), 'pay_1', 'pending', now(), now(), "
)

OF_JANUARY: LiteralString = " WHERE meter_no IS NOT NULL AND period_start = '2026-01-01Z'"

#: By rule, what is written past Meterline.
BREAKS: dict[str, tuple[LiteralString, ...]] = {
    "invoice.lines_differ_from_subtotal": ("UPDATE invoice_lines SET amount_minor = 1 WHERE invoice_id =" + OPEN,),
    "invoice.lines_without_statement": ("DELETE FROM invoice_statements WHERE period_end = '2026-02-01Z'",),
    "invoice.parts_differ_from_total": (
        "ALTER TABLE invoices DROP CONSTRAINT invoices_total",
        "UPDATE invoices SET discount_minor = 1 WHERE id =" + OPEN,
    ),
    "invoice.payments_differ_from_amount_paid": (PAYMENT + OPEN,),
    "invoice.paid_without_its_money": (PAYMENT + PAID,),
    "invoice.credit_notes_differ_from_amount_credited": (NOTE,),
    "credit_note.lines_differ_from_amount": (NOTE,),
    "invoice.line_credited_beyond_its_amount": (
        NOTE,
        "INSERT INTO credit_note_lines VALUES ('crn_1'," + OPEN + ", 0, 99999, 100)",
    ),
    "payment.refunds_exceed_amount": (PAYMENT + OPEN, REFUND + "NULL, 101)"),
    "credit_note.refunds_exceed_amount": (PAYMENT + OPEN, NOTE, REFUND + "'crn_1', 1)"),
    "invoice.wallet_differs_from_credits_applied": (
        "UPDATE wallet_entries e SET amount_minor = e.amount_minor + 1 FROM wallet_transactions t"
        " WHERE t.id = e.transaction_id AND e.account = 'invoice' AND t.invoice_id =" + OPEN,
    ),
    "invoice.never_overdue": ("UPDATE invoices SET dunning_at = NULL WHERE id IN" + OPEN,),
    "invoice.numbers_have_a_gap": ("UPDATE invoice_sequences SET next_number = next_number + 1",),
    "credit_note.numbers_have_a_gap": ("INSERT INTO credit_note_sequences SELECT id, 2 FROM tenants LIMIT 1",),
    "wallet.ledger_is_not_zero": (
        "UPDATE wallet_entries SET amount_minor = amount_minor + 1 WHERE account = 'promotion'",
    ),
    "wallet.grants_differ_from_entries": (
        "UPDATE wallet_grants SET balance_minor = balance_minor + 1, granted_minor = granted_minor + 1",
    ),
    "wallet.balance_differs_from_entries": ("UPDATE wallets SET granted_minor = granted_minor + 1",),
    "subscription.time_billed_twice": (
        "UPDATE invoice_lines SET period_end = period_end + interval '1 hour'" + OF_JANUARY,
    ),
    "subscription.usage_left_out": (
        "UPDATE invoice_lines SET period_end = period_end - interval '1 hour'" + OF_JANUARY,
    ),
    "subscription.past_due_differs_from_invoices": ("UPDATE subscriptions SET past_due_since = created_at",),
    "customer.holds_differ_from_reservations": (
        "INSERT INTO entitlement_holds SELECT id, 'feat_1', tenant_id, 1 FROM customers LIMIT 1",
    ),
}


def test_every_rule_is_broken_by_a_test() -> None:
    assert list(BREAKS) == sorted(BREAKS, key=list(RULES).index)
    assert set(BREAKS) == set(RULES)


def test_what_billing_has_made_breaks_no_rule(world: World) -> None:
    with world.doors.database.transaction() as connection:
        assert find_broken(connection) == {}


@pytest.mark.parametrize("rule", list(RULES))
def test_what_breaks_a_rule_is_found(world: World, rule: str) -> None:
    with undone(world) as connection:
        for statement in BREAKS[rule]:
            connection.execute(statement)
        assert len(find_broken(connection)[rule]) == 1


@pytest.mark.parametrize(
    ("excess", "credit_note", "amount", "is_broken"),
    [
        (0, "'crn_1'", 100, False),
        (0, "'crn_1'", 101, True),
        (0, "NULL", 1, True),
        (40, "NULL", 40, False),
        (40, "NULL", 41, True),
        (40, "'crn_1'", 60, False),
        (40, "'crn_1'", 61, True),
    ],
)
def test_refunds_that_have_not_failed_are_no_more_than_their_payment(
    world: World, excess: int, credit_note: LiteralString, amount: int, is_broken: bool
) -> None:
    rule = "payment.refunds_exceed_amount"
    with undone(world) as connection:
        connection.execute(PAYMENT + OPEN)
        connection.execute("UPDATE payments SET excess_minor = %s WHERE id = 'pay_1'", (excess,))
        connection.execute(REFUND + credit_note + ", %s)", (amount,))
        assert (rule in find_broken(connection)) is is_broken
        connection.execute("UPDATE refunds SET status = 'failed', ask_at = NULL, settled_at = now()")
        assert rule not in find_broken(connection)


def test_a_refund_of_an_old_payment_is_looked_at_when_it_is_new(world: World) -> None:
    since = instant("2100-01-01")
    with undone(world) as connection:
        connection.execute(PAYMENT + OPEN)
        connection.execute("UPDATE payments SET id = 'pay_0' WHERE id = 'pay_1'")
        assert check_page(connection, Of.INVOICE, after="", since=since).objects == 0
        connection.execute((REFUND + "NULL, 101)").replace("'pay_1'", "'pay_0'").replace("'rfd_1'", "'rfd_f'"))
        page = check_page(connection, Of.INVOICE, after="", since=since)
        assert list(page.broken) == ["invoice.payments_differ_from_amount_paid", "payment.refunds_exceed_amount"]


def test_usage_that_a_pause_leaves_out_is_not_missing(world: World) -> None:
    with undone(world) as connection:
        connection.execute(BREAKS["subscription.usage_left_out"][0])
        connection.execute(
            "UPDATE subscription_phases SET starts_at = (SELECT period_end FROM invoice_lines" + OF_JANUARY + ")"
        )
        assert find_broken(connection) == {}


def run(world: World, place: InvariantPlace | None = None) -> InvariantPlace:
    place = place or InvariantPlace()
    while not place.is_done:
        place = check(world.doors.database, place, full_after=DAY, now=NOW)
    return place


def told(world: World, event: str) -> Sequence[Row]:
    return world.rows(
        "SELECT * FROM outbox WHERE type = %(event)s AND tenant_id = %(t)s", event=event, t=world.tenant_id
    )


def test_a_breach_is_told_once_parks_its_account_and_is_forgotten_when_it_is_mended(world: World) -> None:
    assert run(world).broken == 0
    breach: LiteralString = "UPDATE invoice_lines SET period_end = period_end + %s::interval" + OF_JANUARY
    with world.doors.database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(breach, ("1 hour",))
        connection.execute("DELETE FROM invariant_checks")  # so that the next one looks at everything
    assert run(world).broken == 1
    assert run(world).broken == 1  # it stands, though nothing new is
    [event] = told(world, "invariant.broken")
    assert event["data"]["rule"] == "subscription.time_billed_twice"
    assert f"/v1/subscriptions/{event['object_id']}/unpark" in event["data"]["advice"]
    [row] = world.rows("SELECT parked_reason FROM subscriptions WHERE id = %(id)s", id=event["object_id"])
    assert row["parked_reason"] == "invariant.broken: subscription.time_billed_twice"
    assert len(told(world, "subscription.parked")) == 1
    with world.doors.database.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(breach, ("-1 hour",))
        connection.execute("UPDATE subscriptions SET parked_reason = NULL")
    assert run(world).broken == 0
    assert world.rows("SELECT * FROM invariant_breaches") == []


def test_a_check_of_what_is_new_looks_at_new_things_alone(world: World) -> None:
    begun = InvariantPlace(of="invoices", since="2100-01-01T00:00:00Z", begun_at="2026-06-01T00:00:00Z")
    assert run(world, begun).checked == 0
    recent = InvariantPlace(of="invoices", since="2026-01-01T00:00:00Z", begun_at="2026-06-01T00:00:00Z")
    everything = InvariantPlace(of="invoices", begun_at="2026-06-01T00:00:00Z")
    assert 0 < run(world, recent).checked <= run(world, everything).checked
    with world.doors.database.transaction() as connection:
        assert all(ask(connection, rule.of, []) == {} for rule in RULES.values())
