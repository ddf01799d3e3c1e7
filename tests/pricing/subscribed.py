"""Subscriptions, and the statements of their lives."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from pricing.billing import price_statement
from pricing.statements import (
    Statement,
    statements,
)
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription, GroupQuantity, MeteredUsage

BASE = {"key": "base", "type": "fixed", "model": "flat", "amount": "31"}
YEARLY = BASE | {"key": "licence", "amount": "365", "billing_period": "year"}
USAGE = {"key": "tokens", "type": "usage", "meter": "tokens", "model": "per_unit", "unit_amount": "0.01"}
SUPPORT = BASE | {"key": "support", "timing": "arrears", "amount": "31"}
SETUP = BASE | {"key": "setup", "amount": "5", "billing_period": "once"}
NEW_YORK = "America/New_York"


def at(text: str, timezone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)


def subscribe(*prices: dict[str, Any], start: datetime, **terms: Any) -> BilledSubscription:
    return BilledSubscription(
        **{
            "id": "sub_1",
            "row_version": "1",
            "tenant_id": "ten_1",
            "tenant_no": 1,
            "customer_id": "cus_1",
            "customer_no": 1,
            "external_id": "acme",
            "plan_id": "pln_1",
            "plan_version": 1,
            "prices": list(prices),
            "status": "active",
            "currency": "USD",
            "timezone": "UTC",
            "start_at": start,
            "billing_anchor": start,
            "alignment": "anniversary",
            "quantities": {},
            "price_overrides": {},
            "discounts": [],
            "commitment": None,
            "end_at": None,
            "cancel_at": None,
            "cancel_proration": False,
            "billed_until": None,
            "next_bill_at": start,
            **terms,
        }
    )


def terms_of(*prices: dict[str, Any], start: datetime, **terms: Any) -> Terms:
    return read_terms(subscribe(*prices, start=start, **terms))


def life(terms: Terms, count: int = 6) -> list[Statement]:
    return list(islice(statements(terms), count))


def lines(statement: Statement) -> dict[str, tuple[datetime, datetime]]:
    return {line.price.key: (line.period.start, line.period.end) for line in statement.lines}


def used(quantity: object) -> dict[str, MeteredUsage]:
    group = GroupQuantity(group={}, quantity=Decimal(str(quantity)))
    return {"tokens": MeteredUsage(meter_no=1, quantity=group.quantity, groups=(group,))}


def amounts(terms: Terms, statement: Statement, quantity: object = 0) -> dict[str, Decimal]:
    return {line.key: line.amount for line in price_statement(terms, statement, used(quantity)).lines}
