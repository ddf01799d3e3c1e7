"""Credits: usage burns grants down, in order, and what no grant covers is overage.

Burn order: lower priority, earlier end by expiry (none last), earlier start, id. At one instant: ends, then starts and
refills, then grants absorb overage, then usage. Always, for each grant: granted = burned + balance + expired.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from pricing.explain import ZERO
from pricing.periods import INVALID_PERIOD, BillingPeriod, occurrences
from schemas.errors import Reject
from schemas.money import exactly

INVALID_GRANT = "pricing.invalid_grant"
INVALID_BALANCES = "pricing.invalid_balances"

MAX_GRANTS = 10_000
MAX_REFILLS = 100_000  # of all grants, in one burn-down

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """Refills to the full amount at anchor + n units (any n), after the grant's start and before its end."""

    every: BillingPeriod
    anchor: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """In effect in [effective_at, end), where the end is the earlier of expiry and voiding."""

    id: str
    amount: Decimal
    priority: int
    effective_at: datetime
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    recurrence: Recurrence | None = None

    @property
    def ends_at(self) -> datetime:
        return min(self.expires_at or NEVER, self.voided_at or NEVER)

    def in_effect(self, instant: datetime) -> bool:
        return self.effective_at <= instant < self.ends_at


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAt:
    """Usage of an instant; negative gives back."""

    at: datetime
    amount: Decimal


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of one grant: granted = burned + balance + expired."""

    grant: Grant
    granted: Decimal = ZERO
    burned: Decimal = ZERO
    expired: Decimal = ZERO
    balance: Decimal = ZERO
    order: tuple[int, datetime, datetime, str] = field(init=False)

    def __post_init__(self) -> None:
        grant = self.grant
        self.order = (grant.priority, grant.expires_at or NEVER, grant.effective_at, grant.id)

    def fill(self) -> None:
        """Full again; what is replaced has expired."""
        self.lapse()
        self.granted += self.grant.amount
        self.balance = self.grant.amount

    def lapse(self) -> None:
        self.expired += self.balance
        self.balance = ZERO

    def burn(self, amount: Decimal) -> Decimal:
        """Take up to `amount`; what it could not give is returned. A negative amount gives back, up to full."""
        taken = max(min(amount, self.balance), min(ZERO, self.balance - self.grant.amount))
        self.balance -= taken
        self.burned += taken
        return amount - taken


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnDown:
    """The state at the end: everything of that instant is done except its usage.

    By grant id, for every grant: `balances` (0 when not in effect), `granted`, `burned`, `expired`. `balance` is the
    sum. `unreturned` is negative usage that no overage and no grant in effect could take back.
    """

    balances: Mapping[str, Decimal]
    granted: Mapping[str, Decimal]
    burned: Mapping[str, Decimal]
    expired: Mapping[str, Decimal]
    balance: Decimal
    overage: Decimal
    unreturned: Decimal


@dataclass(slots=True, kw_only=True)
class State:
    """Accounts, and those in effect in burn order."""

    accounts: Mapping[str, Account]
    overage: Decimal
    active: list[Account] = field(default_factory=list[Account])
    burning: int = 0  # all before this place of `active` are empty
    unreturned: Decimal = ZERO

    def start(self, account: Account) -> None:
        account.fill()
        self.insert(account)

    def insert(self, account: Account) -> None:
        insort(self.active, account, key=in_burn_order)
        self.burning = 0

    def refill(self, account: Account) -> None:
        account.fill()
        self.burning = 0

    def end(self, account: Account) -> None:
        account.lapse()
        del self.active[bisect_left(self.active, account.order, key=in_burn_order)]
        self.burning = 0

    def use(self, amount: Decimal) -> None:
        """Charge usage to the grants in burn order; what is left is overage."""
        while amount and self.burning < len(self.active):
            amount = self.active[self.burning].burn(amount)
            if amount:
                self.burning += 1
        self.overage += amount

    def give_back(self, amount: Decimal) -> None:
        """Take usage back: from overage first, then from the grants in reverse burn order."""
        from_overage = min(self.overage, amount)
        self.overage -= from_overage
        left = from_overage - amount
        for account in reversed(self.active):
            if not left:
                return
            left = account.burn(left)
            self.burning = 0
        self.unreturned -= left

    def absorb(self) -> None:
        overage, self.overage = self.overage, ZERO
        self.use(overage)


def in_burn_order(account: Account) -> tuple[int, datetime, datetime, str]:
    return account.order


@exactly
def burn_down(
    grants: Sequence[Grant],
    usage: Sequence[UsageAt],
    start: datetime,
    end: datetime,
    *,
    balances: Mapping[str, Decimal] | None = None,
    overage: Decimal = ZERO,
    timezone: str = "UTC",
) -> BurnDown:
    """Burn the usage of [start, end) and tell the state at `end`.

    Without `balances` every grant in effect starts full. With it the run goes on from a state as this function returns
    it: everything of `start` except its usage is done for the grants it names. It names every grant in effect before
    `start`, and none unknown. A starting overage is charged first. Usage of one instant is added up before it counts,
    so the order of the list is irrelevant. `timezone` is where refills keep their wall time.
    Raises Reject: `pricing.invalid_period|invalid_grant|invalid_balances`.
    """
    if start > end:
        raise Reject.at("/to", INVALID_PERIOD, "must not lie before from")
    accounts = {grant.id: Account(grant=grant) for grant in grants}
    if len(accounts) < len(grants):
        raise Reject.at("/grants", INVALID_GRANT, "two grants have one id")
    state = State(accounts=accounts, overage=overage)
    open_accounts(state, start, balances)
    state.absorb()
    used = usage_by_instant(usage, start, end)
    changes = changes_by_instant(grants, start, end, timezone)
    for instant in sorted({*used, *changes}):
        for kind, grant_id in sorted(changes.get(instant, ())):
            apply(state, kind, accounts[grant_id])
        if instant in changes:
            state.absorb()
        if instant in used:
            amount = used[instant]
            if amount < 0:
                state.give_back(-amount)
            else:
                state.use(amount)
    return BurnDown(
        balances={id_: account.balance for id_, account in accounts.items()},
        granted={id_: account.granted for id_, account in accounts.items()},
        burned={id_: account.burned for id_, account in accounts.items()},
        expired={id_: account.expired for id_, account in accounts.items()},
        balance=sum((account.balance for account in accounts.values()), ZERO),
        overage=state.overage,
        unreturned=state.unreturned,
    )


@exactly
def roll_over(balance: Decimal, *, minimum: Decimal = ZERO, maximum: Decimal | None = None) -> Decimal:
    """What of a balance lives on after a reset: min(max_rollover, max(min_rollover, balance))."""
    kept = max(minimum, balance)
    return kept if maximum is None else min(maximum, kept)


#: The order of changes at one instant.
END, START, REFILL = range(3)


def apply(state: State, kind: int, account: Account) -> None:
    if kind == END:
        state.end(account)
    elif kind == START:
        state.start(account)
    else:
        state.refill(account)


def open_accounts(state: State, start: datetime, balances: Mapping[str, Decimal] | None) -> None:
    """Bring every grant in effect at `start` to its balance there."""
    for grant_id in balances or ():
        if grant_id not in state.accounts:
            raise Reject.at("/balances", INVALID_BALANCES, "names a grant that is not given")
    for account in state.accounts.values():
        grant = account.grant
        if not grant.in_effect(start):
            continue
        if balances is None or (grant.id not in balances and grant.effective_at == start):
            account.fill()
        elif grant.id in balances:
            account.granted = account.balance = balances[grant.id]
        else:
            raise Reject.at("/balances", INVALID_BALANCES, "leaves out a grant that was in effect before from")
        state.insert(account)


def usage_by_instant(usage: Sequence[UsageAt], start: datetime, end: datetime) -> dict[datetime, Decimal]:
    used: dict[datetime, Decimal] = {}
    for one in usage:
        if start <= one.at < end:
            used[one.at] = used.get(one.at, ZERO) + one.amount
    return used


def changes_by_instant(
    grants: Sequence[Grant], start: datetime, end: datetime, timezone: str
) -> dict[datetime, list[tuple[int, str]]]:
    """Ends, starts and refills in (start, end]; those of `start` are in the opening balances."""
    changes: dict[datetime, list[tuple[int, str]]] = {}
    refills = 0
    for grant in grants:
        ends_at = grant.ends_at
        if ends_at <= grant.effective_at:
            continue
        if start < ends_at <= end:
            changes.setdefault(ends_at, []).append((END, grant.id))
        if start < grant.effective_at <= end:
            changes.setdefault(grant.effective_at, []).append((START, grant.id))
        if grant.recurrence is None:
            continue
        after = max(start, grant.effective_at)
        for instant in occurrences(grant.recurrence.anchor, timezone, grant.recurrence.every, after):
            if instant > end or instant >= ends_at:
                break
            refills += 1
            if refills > MAX_REFILLS:
                raise Reject.at("/grants", INVALID_GRANT, f"refill more than {MAX_REFILLS} times")
            changes.setdefault(instant, []).append((REFILL, grant.id))
    return changes
