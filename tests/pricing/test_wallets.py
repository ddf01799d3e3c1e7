"""Wallets against `burn_down`, the rule that they follow, and against sums in plain decimal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from pricing.credits import Grant, Recurrence, UsageAt, burn_down
from pricing.periods import BillingPeriod
from pricing.top_ups import AutoTopUp, Decision, TopUps, decide, month_of
from pricing.wallets import (
    Posting,
    WalletGrant,
    WalletState,
    absorb,
    catch_up,
    credit_grant,
    give_back,
    paid_by_grant,
    pay,
    void_grant,
)
from schemas.wallets import SOURCES, Account, GrantKind, GrantStatus

START = datetime(2026, 1, 31, tzinfo=UTC)
ZONE = "Europe/Berlin"
DAYS = st.integers(0, 60)
KINDS = st.sampled_from([GrantKind.PAID, GrantKind.PROMOTIONAL])
EVERY = st.sampled_from([None, BillingPeriod.DAY, BillingPeriod.WEEK, BillingPeriod.MONTH])


def day(number: int) -> datetime:
    return START + timedelta(days=number)


@st.composite
def promised(draw: st.DrawFn, *, rolls_over: bool) -> list[WalletGrant]:
    """Up to five grants that start, end and refill on days."""
    grants: list[WalletGrant] = []
    for number in range(draw(st.integers(0, 5))):
        start, every = draw(DAYS), draw(EVERY)
        length = draw(st.none() | st.integers(1, 40))
        rolls = rolls_over and every is not None
        grants.append(
            WalletGrant(
                id=f"g{number}",
                kind=draw(KINDS),
                amount_minor=draw(st.integers(1, 100)),
                priority=draw(st.integers(0, 2)),
                effective_at=day(start),
                expires_at=None if length is None else day(start + length),
                every=every,
                anchor=None if every is None else day(draw(DAYS)),
                rollover_min_minor=draw(st.integers(0, 50)) if rolls else 0,
                rollover_max_minor=draw(st.integers(0, 150)) if rolls else 0,
                status=GrantStatus.SCHEDULED,
            )
        )
    return grants


def wallet_of(grants: Sequence[WalletGrant], *, allow_negative: bool) -> WalletState:
    return WalletState(
        id="w", timezone=ZONE, allow_negative=allow_negative, grants={grant.id: replace(grant) for grant in grants}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    granted: Decimal
    burned: Decimal
    expired: Decimal
    balance: Decimal


def sums_of(grant_id: str, postings: Sequence[Posting]) -> Sums:
    """What the ledger says of a grant, added up."""

    def total(*accounts: Account) -> Decimal:
        return Decimal(
            sum(
                entry.amount_minor
                for posting in postings
                for entry in posting.entries
                if entry.grant_id == grant_id and entry.account in accounts
            )
        )

    return Sums(
        granted=-total(*SOURCES.values()),
        burned=total(Account.INVOICE, Account.OVERDRAFT),
        expired=total(Account.EXPIRED),
        balance=total(Account.BALANCE),
    )


def check_ledger(wallet: WalletState, postings: Sequence[Posting]) -> None:
    """Every transaction is zero, no grant below zero, and everything granted is burned, expired or there."""
    for posting in postings:
        assert posting.entries
        assert sum(entry.amount_minor for entry in posting.entries) == 0
    for grant in wallet.grants.values():
        sums = sums_of(grant.id, postings)
        assert sums.granted == sums.burned + sums.expired + sums.balance
        assert sums.balance == grant.balance_minor >= 0
    overdraft = sum(e.amount_minor for p in postings for e in p.entries if e.account is Account.OVERDRAFT)
    assert overdraft == -wallet.overdraft_minor <= 0
    assert sum(posting.change_minor for posting in postings) == wallet.balance_minor


@given(promised(rolls_over=False), st.dictionaries(DAYS, st.integers(1, 150), max_size=10))
def test_a_wallet_that_may_be_negative_is_a_burn_down(grants: list[WalletGrant], invoices: dict[int, int]) -> None:
    wallet, end = wallet_of(grants, allow_negative=True), day(100)
    postings: list[Posting] = []
    for number, amount in sorted(invoices.items()):
        postings += catch_up(wallet, day(number))
        paid, written = pay(wallet, f"i{number}", amount, day(number))
        assert paid == amount
        postings += written
    postings += catch_up(wallet, end)
    check_ledger(wallet, postings)
    rule = burn_down(
        [
            Grant(
                id=grant.id,
                amount=Decimal(grant.amount_minor),
                priority=grant.priority,
                effective_at=grant.effective_at,
                expires_at=grant.expires_at,
                recurrence=None
                if grant.every is None or grant.anchor is None
                else Recurrence(every=grant.every, anchor=grant.anchor),
            )
            for grant in grants
        ],
        [UsageAt(at=day(number), amount=Decimal(amount)) for number, amount in invoices.items()],
        START - timedelta(days=1),
        end,
        timezone=ZONE,
    )
    assert wallet.overdraft_minor == rule.overage
    for grant in grants:
        sums = sums_of(grant.id, postings)
        assert (sums.granted, sums.burned, sums.expired, sums.balance) == (
            rule.granted[grant.id],
            rule.burned[grant.id],
            rule.expired[grant.id],
            rule.balances[grant.id],
        )


@given(promised(rolls_over=True), st.lists(st.integers(0, 100), max_size=8))
def test_it_makes_no_difference_how_often_a_wallet_is_looked_at(grants: list[WalletGrant], looks: list[int]) -> None:
    once, often = wallet_of(grants, allow_negative=False), wallet_of(grants, allow_negative=False)
    in_one = catch_up(once, day(100))
    in_many = [posting for look in (*sorted(looks), 100, 100) for posting in catch_up(often, day(look))]
    assert in_many == in_one
    check_ledger(often, in_many)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("pay"), st.integers(1, 150)),
        st.tuples(st.just("owe"), st.integers(1, 50)),
        st.tuples(st.just("return"), st.integers(0, 20)),
        st.tuples(st.just("void"), st.integers(0, 4)),
        st.tuples(st.just("wait"), st.integers(0, 20)),
    ),
    max_size=20,
)


@given(promised(rolls_over=True), ACTIONS, st.booleans())
def test_after_any_sequence_all_that_was_granted_is_burned_expired_or_there(
    grants: list[WalletGrant], actions: list[tuple[str, int]], allow_negative: bool
) -> None:
    wallet, today, postings = wallet_of(grants, allow_negative=allow_negative), 0, list[Posting]()
    paying: dict[str, Posting] = {}
    for step, (action, number) in enumerate(actions):
        today += number if action == "wait" else 0
        at = day(today)
        postings += catch_up(wallet, at)
        if action == "pay":
            held = sum(grant.balance_minor for grant in wallet.grants.values())
            paid, written = pay(wallet, f"i{step}", number, at)
            assert paid == (number if allow_negative else min(number, held))
            postings += written
            paying |= {f"i{step}": posting for posting in written}
        elif action == "owe":
            wallet.grants[f"c{step}"] = credit_grant(f"c{step}", number, at)
            postings += catch_up(wallet, at)
        elif action == "return" and paying:
            invoice_id = list(paying)[number % len(paying)]
            entries = paying.pop(invoice_id).entries
            paid_back = paid_by_grant((entry.grant_id, entry.account, entry.amount_minor) for entry in entries)
            postings += give_back(wallet, invoice_id, paid_back, at, credit_id=f"r{step}")
        elif action == "void" and f"g{number}" in wallet.grants:
            grant = wallet.grants[f"g{number}"]
            if grant.status in (GrantStatus.SCHEDULED, GrantStatus.ACTIVE):
                postings += void_grant(grant, at)
        check_ledger(wallet, postings)
        assert not absorb(wallet, at), "an overdraft stands beside money that could make up for it"
    still_paid = sum(e.amount_minor for p in paying.values() for e in p.entries if e.account is Account.INVOICE)
    assert still_paid == sum(e.amount_minor for p in postings for e in p.entries if e.account is Account.INVOICE)


def test_a_refund_to_a_refilled_grant_fills_it_and_no_more() -> None:
    grant = WalletGrant(
        id="g",
        kind=GrantKind.PROMOTIONAL,
        amount_minor=10,
        priority=0,
        effective_at=day(0),
        every=BillingPeriod.DAY,
        anchor=day(0),
        status=GrantStatus.SCHEDULED,
    )
    wallet = wallet_of([grant], allow_negative=False)
    postings = catch_up(wallet, day(0))
    postings += pay(wallet, "i", 6, day(0))[1]
    postings += catch_up(wallet, day(1))
    postings += pay(wallet, "j", 2, day(1))[1]
    postings += give_back(wallet, "i", {"g": 6}, day(1), credit_id="c")
    assert sums_of("g", postings) == Sums(
        granted=Decimal(20), burned=Decimal(2), expired=Decimal(8), balance=Decimal(10)
    )


SETTINGS = AutoTopUp(threshold_minor=100, amount_minor=40, cool_off_seconds=3600, monthly_cap_minor=100)
NOTHING = TopUps(last_at=None, month_minor=0, is_unpaid=False)


def decided(made: TopUps, *, balance: int = 99, settings: AutoTopUp = SETTINGS, at: datetime = START) -> Decision:
    return decide(settings, made, balance_minor=balance, timezone=ZONE, now=at)


def test_a_top_up_is_made_below_the_threshold_and_not_at_it() -> None:
    assert decided(NOTHING) == Decision(amount_minor=40, ask_at=None)
    assert decided(NOTHING, balance=100) == Decision(amount_minor=0, ask_at=None)


def test_a_top_up_to_a_target_is_what_is_missing() -> None:
    to_target = replace(SETTINGS, amount_minor=None, target_minor=150, monthly_cap_minor=None)
    assert decided(NOTHING, balance=-20, settings=to_target).amount_minor == 170


def test_no_top_up_is_made_while_one_is_unpaid() -> None:
    assert decided(replace(NOTHING, is_unpaid=True)) == Decision(amount_minor=0, ask_at=None)


def test_the_cool_off_ends_to_the_second() -> None:
    made = replace(NOTHING, last_at=START)
    over = START + timedelta(hours=1)
    assert decided(made, at=over - timedelta(microseconds=1)) == Decision(amount_minor=0, ask_at=over)
    assert decided(made, at=over).amount_minor == 40


def test_the_cap_of_a_month_is_never_passed_and_ends_with_the_customers_month() -> None:
    assert decided(replace(NOTHING, month_minor=60)).amount_minor == 40
    next_month = datetime(2026, 1, 31, 23, tzinfo=UTC)  # in Berlin
    assert decided(replace(NOTHING, month_minor=61)) == Decision(amount_minor=0, ask_at=next_month)
    assert month_of(next_month, ZONE) == (next_month, datetime(2026, 2, 28, 23, tzinfo=UTC))
