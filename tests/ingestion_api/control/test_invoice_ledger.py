"""Random lives of invoices over HTTP: whatever people do to them in whatever order, everything adds up."""

import random
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from infra.postgres.invariants.check import find_broken
from tests.support.api import Api

STEPS = 80
REFUSALS = {409, 422}


def act(api: Api, chance: random.Random, invoice: Any) -> int:
    """Something that somebody may do to an invoice; the status of the answer."""
    own = f"/v1/invoices/{invoice['id']}"
    amount = str(Decimal(chance.randint(1, 6_000)) / 100)
    lines = [{"line": chance.choice(invoice["lines"])["id"], "amount": amount}]
    note = {"invoice": invoice["id"], "kind": chance.choice(["adjustment", "refund"])}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/payments", {"invoice": invoice["id"], "amount": amount}),
        ("/v1/credit_notes", {**note, "amount": amount}),
        ("/v1/credit_notes", {**note, "lines": lines}),
        (f"{own}/finalize", {}),
        (f"{own}/pay", {}),
        (f"{own}/void", {}),
        (f"{own}/mark_uncollectible", {}),
    ]
    path, body = chance.choice(calls[:3] * 3 + calls[3:4] * 3 + calls[4:])
    return api.http.post(path, json=body).status_code


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_to_invoices_their_ledger_adds_up(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    api.post("/v1/tax_rates", {"key": "vat", "percent": "19"})
    api.post("/v1/tax_rates", {"key": "in", "percent": "7", "inclusive": True})
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR", "tax_rates": ["vat", "in"][: seed % 3]})
    done = 0
    for _ in range(STEPS):
        invoices = api.get("/v1/invoices", limit=100)["data"]
        if not invoices or chance.random() < 0.2:
            lines = [
                {"description": "x", "amount": str(Decimal(chance.randint(-2_000, 9_999)) / 100)}
                for _ in range(chance.randint(1, 4))
            ]
            body = {"customer": "acme", "lines": lines, "draft": chance.random() < 0.3}
            api.post("/v1/invoices", {**body, "discounts": [{"percent": str(chance.randint(0, 100))}]})
            continue
        status = act(api, chance, chance.choice(invoices[:3]))
        assert status in {200, 201} | REFUSALS
        done += status not in REFUSALS
    assert done > 3
    with api.database.transaction() as connection:
        broken = {id_ for found in find_broken(connection).values() for id_ in found}
        tenant = connection.execute(
            "SELECT tenant_id FROM invoices WHERE id = %s", (api.get("/v1/invoices")["data"][0]["id"],)
        ).fetchone()
        assert tenant is not None
        ids = {invoice["id"] for invoice in api.get("/v1/invoices", limit=100)["data"]}
        assert broken & {tenant["tenant_id"], *ids} == set()


def test_what_is_written_past_the_rules_is_found_and_what_is_final_is_held(api: Api) -> None:
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR"})
    lines = [{"description": "x", "amount": "10"}]
    draft = api.post("/v1/invoices", {"customer": "acme", "lines": lines, "draft": True})["id"]
    final = api.post("/v1/invoices", {"customer": "acme", "lines": lines})["id"]
    with api.database.transaction() as connection:
        connection.execute("UPDATE invoice_lines SET amount_minor = 1 WHERE invoice_id = %s", (draft,))
        assert draft in find_broken(connection)["invoice.lines_differ_from_subtotal"]
        connection.execute("UPDATE invoice_lines SET amount_minor = 1000 WHERE invoice_id = %s", (draft,))
    for change in (
        "UPDATE invoice_lines SET amount_minor = 1 WHERE invoice_id = %s",
        "DELETE FROM invoice_lines WHERE invoice_id = %s",
        "UPDATE invoices SET total_minor = 1, subtotal_minor = 1, amount_due_minor = 1 WHERE id = %s",
        "UPDATE invoices SET parties = '{}' WHERE id = %s",
        "UPDATE invoices SET amount_paid_minor = 2000 WHERE id = %s",
    ):
        with pytest.raises(psycopg.errors.IntegrityError), api.database.transaction() as connection:
            connection.execute(change.encode(), (final,))
