"""Deliveries are tried again over days, each a little apart from the others, and then no more."""

from datetime import UTC, datetime, timedelta

from infra.webhooks.matching import names_something, wants
from infra.webhooks.retries import DELAYS, next_try

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_each_try_is_about_its_delay_later_and_the_same_each_time() -> None:
    for tries, delay in enumerate(DELAYS, start=1):
        at = next_try("whd_1", tries, now=NOW)
        assert at == next_try("whd_1", tries, now=NOW)
        assert at is not None
        assert abs(at - NOW - delay) <= delay / 10
    assert next_try("whd_1", len(DELAYS) + 1, now=NOW) is None
    assert sum(DELAYS, timedelta()) > timedelta(days=3)
    assert len({next_try(f"whd_{n}", 1, now=NOW) for n in range(100)}) > 30


def test_patterns_name_types_prefixes_or_all() -> None:
    assert wants(["invoice.*"], "invoice.paid")
    assert not wants(["invoice.*"], "invoices.paid")
    assert wants(["*"], "customer.created")
    assert not wants(["invoice.paid"], "invoice.paid_late")
    assert names_something("wallet.*")
    assert not any(
        names_something(pattern) for pattern in ("", "invoice", "invoice.payed", "in*", "*.paid", "nosuch.*")
    )
