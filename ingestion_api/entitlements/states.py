"""What checks would answer now of many (customer, feature) pairs: out of memory, and over PostgreSQL where that is not
sure."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres import entitlements
from infra.postgres.entitlement_copies import load_features
from ingestion_api.auth import Principal
from ingestion_api.context import Context
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.decide import CheckView, Question, decide, load_basis
from ingestion_api.entitlements.ring import Pair


def look(context: Context, principal: Principal, pairs: Sequence[Pair], now: datetime) -> dict[Pair, CheckView]:
    """The answers by pair. May wait for the stores; raises what they raise. What is gone by now is left out."""
    found: dict[Pair, CheckView] = {}
    unsure: list[Pair] = []
    for pair in pairs:
        known = context.replica.answer(
            context.stored_usage,
            [Ask(*pair, None)],
            tenant_id=principal.tenant_id,
            tenant_no=principal.tenant_no,
            now=now,
        )
        if known is None:
            unsure.append(pair)
        else:
            found[pair] = known[0]
    return found | _ask_stores(context, principal, unsure, now) if unsure else found


def _ask_stores(context: Context, principal: Principal, pairs: Sequence[Pair], now: datetime) -> dict[Pair, CheckView]:
    tenant_id = principal.tenant_id
    with context.database.snapshot() as connection:
        customers = entitlements.load_customers(
            connection, tenant_id=tenant_id, references=[customer for customer, _ in pairs]
        )
        rows = load_features(connection, feature_ids=[feature for _, feature in pairs])
        features = {row["id"]: row for row in rows if row["tenant_id"] == tenant_id}
        present = [pair for pair in pairs if pair[0] in customers and pair[1] in features]
        questions = [
            Question(customer=customers[customer], feature=features[feature], quantity=None)
            for customer, feature in present
        ]
        basis = load_basis(connection, questions, tenant_id=tenant_id, now=now, settings=context.settings)
    views = decide(context.stored_usage, basis, tenant_no=principal.tenant_no, now=now)
    return dict(zip(present, views, strict=True))
