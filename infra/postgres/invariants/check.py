"""Checks the rules page by page, keeps and tells what is broken, and parks what must not be billed on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from infra.postgres import outbox
from infra.postgres.invariants import holds, invoices, subscriptions, wallets
from infra.postgres.invariants.rule import Of, Rule
from infra.postgres.pool import PgConnection, Row
from schemas.ids import Prefix
from schemas.topics import SystemEvent

_RULES = (*invoices.RULES, *wallets.RULES, *subscriptions.RULES, *holds.RULES)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}

OBJECTS_A_PAGE = 1_000
#: What a check of recent changes looks at again: an id is made before its transaction ends.
OVERLAP = timedelta(minutes=15)

ORDER = (Of.INVOICE, Of.WALLET, Of.SUBSCRIPTION, Of.TENANT, Of.CUSTOMER)

_ALL: Mapping[Of, LiteralString] = {
    Of.INVOICE: "SELECT id FROM invoices WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
    Of.WALLET: "SELECT id FROM wallets WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
    Of.SUBSCRIPTION: "SELECT id FROM subscriptions WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
    Of.TENANT: "SELECT id FROM tenants WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
    Of.CUSTOMER: "SELECT id FROM customers WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
}
#: Objects beyond `after` that something with a newer id than `since` belongs to. Ids sort by the time they were made.
_RECENT: Mapping[Of, LiteralString] = {
    Of.INVOICE: "SELECT id FROM (SELECT id FROM invoices WHERE id > %(invoice)s"
    " UNION SELECT invoice_id FROM payments WHERE id > %(payment)s"
    " UNION SELECT invoice_id FROM credit_notes WHERE id > %(credit_note)s"
    " UNION SELECT p.invoice_id FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id > %(refund)s"
    " UNION SELECT invoice_id FROM wallet_transactions WHERE id > %(wallet_transaction)s) found"
    " WHERE id > %(after)s ORDER BY id LIMIT %(limit)s",
    Of.WALLET: "SELECT DISTINCT wallet_id AS id FROM wallet_transactions WHERE id > %(wallet_transaction)s"
    " AND wallet_id > %(after)s ORDER BY wallet_id LIMIT %(limit)s",
    Of.SUBSCRIPTION: "SELECT DISTINCT subscription_id AS id FROM invoice_statements WHERE invoice_id > %(invoice)s"
    " AND subscription_id > %(after)s ORDER BY subscription_id LIMIT %(limit)s",
    Of.TENANT: "SELECT DISTINCT tenant_id AS id FROM (SELECT tenant_id FROM invoices WHERE id > %(invoice)s"
    " UNION SELECT tenant_id FROM credit_notes WHERE id > %(credit_note)s) found"
    " WHERE tenant_id > %(after)s ORDER BY tenant_id LIMIT %(limit)s",
    Of.CUSTOMER: "SELECT DISTINCT customer_id AS id FROM reservations WHERE id > %(reservation)s"
    " AND customer_id > %(after)s ORDER BY customer_id LIMIT %(limit)s",
}
_TENANTS: Mapping[Of, LiteralString] = {
    Of.INVOICE: "SELECT id, tenant_id FROM invoices WHERE id = ANY(%s)",
    Of.WALLET: "SELECT id, tenant_id FROM wallets WHERE id = ANY(%s)",
    Of.SUBSCRIPTION: "SELECT id, tenant_id FROM subscriptions WHERE id = ANY(%s)",
    Of.TENANT: "SELECT id, id AS tenant_id FROM tenants WHERE id = ANY(%s)",
    Of.CUSTOMER: "SELECT id, tenant_id FROM customers WHERE id = ANY(%s)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page of objects showed: how many they are, and by rule the ids that break it. `last`: the last id; None:
    there is no further page."""

    objects: int
    broken: Mapping[str, Sequence[str]]
    last: str | None


def check_page(connection: PgConnection, of: Of, *, after: str, since: datetime | None) -> Page:
    """Ask every rule of a kind about the objects beyond `after`: all (`since` None), or those changed lately. Writes
    nothing."""
    bounds = {} if since is None else _bounds(since - OVERLAP)
    query = _ALL[of] if since is None else _RECENT[of]
    rows = connection.execute(query, {"after": after, "limit": OBJECTS_A_PAGE, **bounds}).fetchall()
    ids = [row["id"] for row in rows]
    return Page(objects=len(ids), broken=ask(connection, of, ids), last=ids[-1] if len(ids) == OBJECTS_A_PAGE else None)


def ask(connection: PgConnection, of: Of, ids: Sequence[str]) -> dict[str, list[str]]:
    """By rule of this kind, which of the objects break it."""
    found: dict[str, list[str]] = {}
    for rule in RULES.values() if ids else ():
        if rule.of is of:
            broken: list[Row] = connection.execute(rule.query, {"ids": list(ids)}).fetchall()
            if broken:
                found[rule.name] = sorted({row["id"] for row in broken})
    return found


def find_broken(connection: PgConnection) -> dict[str, list[str]]:
    """By rule, all ids that break it now; empty: everything holds. Looks at everything, page by page, and writes
    nothing."""
    found: dict[str, list[str]] = {}
    for of in ORDER:
        for page in _pages(connection, of):
            for rule, ids in page.broken.items():
                found.setdefault(rule, []).extend(ids)
    return found


def _pages(connection: PgConnection, of: Of) -> Iterator[Page]:
    after: str | None = ""
    while after is not None:
        page = check_page(connection, of, after=after, since=None)
        yield page
        after = page.last


def _bounds(since: datetime) -> dict[str, str]:
    kinds = (
        Prefix.INVOICE,
        Prefix.PAYMENT,
        Prefix.CREDIT_NOTE,
        Prefix.REFUND,
        Prefix.WALLET_TRANSACTION,
        Prefix.RESERVATION,
    )
    milliseconds = int(since.timestamp()) * 1_000
    return {kind.name.lower(): f"{kind}_{milliseconds:012x}" for kind in kinds}


def record(connection: PgConnection, of: Of, broken: Mapping[str, Sequence[str]], *, now: datetime) -> list[str]:
    """Keep what is broken, tell of what was not known, and park what must not be billed on; the new ones as
    `rule: id`."""
    ids = sorted({each for found in broken.values() for each in found})
    tenants = {row["id"]: row["tenant_id"] for row in connection.execute(_TENANTS[of], (ids,))}
    new: list[str] = []
    for name, found in broken.items():
        rule = RULES[name]
        for object_id in (each for each in found if each in tenants):
            if _keep(connection, rule, object_id, tenants[object_id], now):
                new.append(f"{name}: {object_id}")
            if rule.parks:
                _park(connection, rule, object_id, tenants[object_id], now)
    return new


def _keep(connection: PgConnection, rule: Rule, object_id: str, tenant_id: str, now: datetime) -> bool:
    added = connection.execute(
        "INSERT INTO invariant_breaches (rule, object_id, tenant_id, found_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (rule.name, object_id, tenant_id, now),
    ).rowcount
    if added:
        outbox.append(
            connection,
            tenant_id=tenant_id,
            event=SystemEvent.INVARIANT_BROKEN,
            object_id=object_id,
            data={"rule": rule.name, "id": object_id, "advice": rule.advice.replace("{id}", object_id)},
            now=now,
        )
    return added == 1


def _park(connection: PgConnection, rule: Rule, subscription_id: str, tenant_id: str, now: datetime) -> None:
    """Once a breach: a person who unparks it has looked."""
    parked = connection.execute(
        "UPDATE subscriptions s SET parked_reason = %s FROM customers c WHERE s.id = %s AND c.id = s.customer_id"
        " AND s.parked_reason IS NULL AND EXISTS (SELECT FROM invariant_breaches b WHERE b.rule = %s"
        " AND b.object_id = s.id AND b.found_at = %s) RETURNING c.external_id",
        (f"invariant.broken: {rule.name}", subscription_id, rule.name, now),
    ).fetchone()
    if parked is not None:
        outbox.append(
            connection,
            tenant_id=tenant_id,
            event=SystemEvent.SUBSCRIPTION_PARKED,
            object_id=subscription_id,
            data={
                "id": subscription_id,
                "customer": parked["external_id"],
                "reason": f"invariant.broken: {rule.name}",
            },
            now=now,
        )


def recheck(connection: PgConnection) -> int:
    """Ask again about what was broken, forget what holds now, and say how many breaches stand."""
    standing = 0
    rows = connection.execute("SELECT rule, object_id FROM invariant_breaches ORDER BY rule, object_id").fetchall()
    for name in sorted({row["rule"] for row in rows}):
        ids = [row["object_id"] for row in rows if row["rule"] == name]
        rule = RULES.get(name)  # None: of an older version
        broken = set() if rule is None else {row["id"] for row in connection.execute(rule.query, {"ids": ids})}
        healed = [each for each in ids if each not in broken]
        connection.execute("DELETE FROM invariant_breaches WHERE rule = %s AND object_id = ANY(%s)", (name, healed))
        standing += len(broken)
    return standing
