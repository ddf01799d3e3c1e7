"""What happens in a wallet: grants start, refill, end and pay. Whole minor units in, entries of a ledger out.

The rules are those of `pricing.credits`: burn order is lower priority, earlier end by expiry (none last), earlier
start, id; at one instant ends come first, then starts and refills, then grants make up for an overdraft, then what is
paid. A grant is gone at its expiry. Always, for each grant: granted = burned + balance + expired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pricing.credits import MAX_REFILLS, NEVER
from pricing.periods import BillingPeriod, occurrences
from schemas.errors import InvariantBroken
from schemas.wallets import DEFAULT_PRIORITY, SOURCES, Account, GrantKind, GrantStatus, TransactionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One side of a transaction. More than 0 on `balance` and `overdraft`: the customer has more."""

    account: Account
    grant_id: str | None
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """A transaction to be written: its entries add up to zero, over all and for each grant."""

    type: TransactionType
    occurred_at: datetime
    entries: tuple[Entry, ...]
    invoice_id: str | None = None
    credit_note_id: str | None = None

    @property
    def change_minor(self) -> int:
        """What it changes of the wallet's balance."""
        return sum(e.amount_minor for e in self.entries if e.account in (Account.BALANCE, Account.OVERDRAFT))


@dataclass(slots=True, kw_only=True)
class WalletGrant:
    """A grant as it is now. It refills at `anchor` + n units of `every`, in the wallet's timezone; `refilled_until`:
    the instant up to which that is done. At a refill min(rollover_max, max(rollover_min, balance)) lives on."""

    id: str
    kind: GrantKind
    amount_minor: int
    priority: int
    effective_at: datetime
    status: GrantStatus
    expires_at: datetime | None = None
    every: BillingPeriod | None = None
    anchor: datetime | None = None
    rollover_min_minor: int = 0
    rollover_max_minor: int = 0
    refilled_until: datetime | None = None
    balance_minor: int = 0
    invoice_id: str | None = None
    credit_note_id: str | None = None
    is_automatic: bool = False
    is_new: bool = False  # not stored yet
    is_changed: bool = False  # its status or `refilled_until`

    @property
    def order(self) -> tuple[int, datetime, datetime, str]:
        return (self.priority, self.expires_at or NEVER, self.effective_at, self.id)

    @property
    def full_minor(self) -> int:
        """The most that it can hold."""
        return self.amount_minor + max(self.rollover_min_minor, self.rollover_max_minor)


@dataclass(slots=True, kw_only=True)
class WalletState:
    """A wallet with the grants that still matter. Its balance is what they have left, less the overdraft."""

    id: str
    timezone: str
    allow_negative: bool = False
    overdraft_minor: int = 0
    grants: dict[str, WalletGrant] = field(default_factory=dict[str, WalletGrant])

    @property
    def balance_minor(self) -> int:
        return sum(grant.balance_minor for grant in self.grants.values()) - self.overdraft_minor


def catch_up(wallet: WalletState, now: datetime) -> list[Posting]:
    """Do everything that happens by itself up to `now`, and return it in order. Doing it again returns nothing."""
    postings: list[Posting] = []
    for _ in range(MAX_REFILLS):
        changes = {grant.id: next_change(grant, wallet.timezone) for grant in wallet.grants.values()}
        at = min((at for at in changes.values() if at is not None), default=None)
        if at is None or at > now:
            return postings
        due = [wallet.grants[grant_id] for grant_id, change in changes.items() if change == at]
        ending = [grant for grant in due if _ends(grant, at)]
        others = [grant for grant in due if not _ends(grant, at)]
        for grant in (*ending, *others):
            postings.extend(_change(grant, at))
        postings.extend(absorb(wallet, at))
    raise InvariantBroken("wallet.too_many_changes", f"More than {MAX_REFILLS} changes of {wallet.id} are due.")


def next_change(grant: WalletGrant, timezone: str) -> datetime | None:
    """When something happens to a grant by itself next; None: never."""
    if grant.status is GrantStatus.SCHEDULED:
        return grant.effective_at
    if grant.status is not GrantStatus.ACTIVE:
        return None
    refill = _next_refill(grant, timezone)
    if refill is None or (grant.expires_at is not None and grant.expires_at <= refill):
        return grant.expires_at
    return refill


def first_change(wallet: WalletState) -> datetime | None:
    """When something happens in the wallet by itself next."""
    changes = (next_change(grant, wallet.timezone) for grant in wallet.grants.values())
    return min((at for at in changes if at is not None), default=None)


def pay(wallet: WalletState, invoice_id: str, total_minor: int, at: datetime) -> tuple[int, list[Posting]]:
    """Pay as much of an invoice as the grants in effect hold, in burn order; with `allow_negative` all of it.

    Everything due up to `at` has been done. Returns what is paid, from 0 to the total.
    """
    entries: list[Entry] = []
    left = max(total_minor, 0)
    for grant in sorted(wallet.grants.values(), key=_by_order):
        if left == 0:
            break
        taken = min(left, grant.balance_minor)
        if taken:
            entries += _move(grant, Account.INVOICE, taken)
            left -= taken
    if left and wallet.allow_negative:
        wallet.overdraft_minor += left
        entries += (
            Entry(account=Account.OVERDRAFT, grant_id=None, amount_minor=-left),
            Entry(account=Account.INVOICE, grant_id=None, amount_minor=left),
        )
        left = 0
    if not entries:
        return 0, []
    posting = Posting(type=TransactionType.INVOICE, occurred_at=at, entries=tuple(entries), invoice_id=invoice_id)
    return max(total_minor, 0) - left, [posting]


def give_back(
    wallet: WalletState, invoice_id: str, paid: Mapping[str | None, int], at: datetime, *, credit_id: str
) -> list[Posting]:
    """Return what had paid an invoice, by grant (None: the overdraft), to where it came from.

    A grant takes back what it has room for while it lives. What belonged to a grant that has ended, or to a stretch
    before its last refill, would be gone by now: it expires at once. What the overdraft no longer needs, since grants
    have made up for it, becomes a credit with the id `credit_id`. Everything due up to `at` has been done.
    """
    entries: list[Entry] = []
    for grant_id, amount in paid.items():
        if grant_id is None:
            entries += _return_overdraft(wallet, amount, at, credit_id)
            continue
        grant = wallet.grants[grant_id]
        entries += _move(grant, Account.INVOICE, -amount)
        room = grant.full_minor if grant.status is GrantStatus.ACTIVE else 0
        lapsed = max(grant.balance_minor - room, 0)
        if lapsed:
            entries += _move(grant, Account.EXPIRED, lapsed)
    posting = Posting(type=TransactionType.INVOICE_VOID, occurred_at=at, entries=tuple(entries), invoice_id=invoice_id)
    return [posting, *absorb(wallet, at)]


def credit_grant(
    grant_id: str, amount_minor: int, at: datetime, *, invoice_id: str | None = None, credit_note_id: str | None = None
) -> WalletGrant:
    """What an invoice or a credit note owes the customer, as a grant that starts now and never expires."""
    return WalletGrant(
        id=grant_id,
        kind=GrantKind.CREDIT,
        amount_minor=amount_minor,
        priority=DEFAULT_PRIORITY,
        effective_at=at,
        status=GrantStatus.SCHEDULED,
        invoice_id=invoice_id,
        credit_note_id=credit_note_id,
        is_new=True,
    )


def void_grant(grant: WalletGrant, at: datetime) -> list[Posting]:
    """End a grant now: what it has left is gone."""
    left = grant.balance_minor
    grant.status, grant.is_changed = GrantStatus.VOIDED, True
    if not left:
        return []
    entries = tuple(_move(grant, Account.EXPIRED, left))
    return [Posting(type=TransactionType.VOID, occurred_at=at, entries=entries)]


def take_back(
    grant: WalletGrant, amount_minor: int, at: datetime, *, invoice_id: str, credit_note_id: str
) -> list[Posting]:
    """Take money that is paid back out of the grant that it had bought: of what it has left, and then of what has
    expired or been voided. `amount_minor` is no more than both are."""
    left = min(amount_minor, grant.balance_minor)
    entries = _move(grant, SOURCES[grant.kind], left)
    if amount_minor > left:
        entries += (
            Entry(account=Account.EXPIRED, grant_id=grant.id, amount_minor=left - amount_minor),
            Entry(account=SOURCES[grant.kind], grant_id=grant.id, amount_minor=amount_minor - left),
        )
    return [
        Posting(
            type=TransactionType.VOID,
            occurred_at=at,
            entries=tuple(entries),
            invoice_id=invoice_id,
            credit_note_id=credit_note_id,
        )
    ]


def absorb(wallet: WalletState, at: datetime) -> list[Posting]:
    """Let grants make up for the overdraft, in burn order."""
    entries: list[Entry] = []
    for grant in sorted(wallet.grants.values(), key=_by_order):
        taken = min(wallet.overdraft_minor, grant.balance_minor)
        if taken > 0:
            entries += _move(grant, Account.OVERDRAFT, taken)
            wallet.overdraft_minor -= taken
    if not entries:
        return []
    return [Posting(type=TransactionType.OVERDRAFT, occurred_at=at, entries=tuple(entries))]


def paid_by_grant(entries: Iterable[tuple[str | None, str, int]]) -> dict[str | None, int]:
    """What paid an invoice, from the entries (grant, account, amount) of its transaction."""
    return {grant_id: amount for grant_id, account, amount in entries if account == Account.INVOICE}


def _return_overdraft(wallet: WalletState, amount_minor: int, at: datetime, credit_id: str) -> list[Entry]:
    returned = min(amount_minor, wallet.overdraft_minor)
    wallet.overdraft_minor -= returned
    surplus = amount_minor - returned
    entries = [Entry(account=Account.INVOICE, grant_id=None, amount_minor=-amount_minor)]
    if returned:
        entries.append(Entry(account=Account.OVERDRAFT, grant_id=None, amount_minor=returned))
    if surplus:
        credit = credit_grant(credit_id, surplus, at)
        credit.status, credit.refilled_until = GrantStatus.ACTIVE, at
        wallet.grants[credit.id] = credit
        entries.append(Entry(account=Account.CREDIT, grant_id=None, amount_minor=surplus))
        entries += _move(credit, Account.CREDIT, -surplus)
    return entries


def _ends(grant: WalletGrant, at: datetime) -> bool:
    return grant.status is GrantStatus.ACTIVE and grant.expires_at is not None and grant.expires_at <= at


def _change(grant: WalletGrant, at: datetime) -> Sequence[Posting]:
    grant.is_changed = True
    if _ends(grant, at):
        grant.status = GrantStatus.EXPIRED
        entries = _move(grant, Account.EXPIRED, grant.balance_minor)
        kind = TransactionType.EXPIRY
    elif grant.status is GrantStatus.SCHEDULED:
        grant.status, grant.refilled_until = GrantStatus.ACTIVE, at
        entries = _move(grant, SOURCES[grant.kind], -grant.amount_minor)
        kind = TransactionType.GRANT
    else:
        grant.refilled_until = at
        kept = min(grant.rollover_max_minor, max(grant.rollover_min_minor, grant.balance_minor))
        entries = _move(grant, Account.EXPIRED, max(grant.balance_minor - kept, 0))
        entries += _move(grant, SOURCES[grant.kind], grant.balance_minor - kept - grant.amount_minor)
        kind = TransactionType.REFILL
    if not entries:
        return ()
    return (
        Posting(
            type=kind,
            occurred_at=at,
            entries=tuple(entries),
            invoice_id=grant.invoice_id if kind is TransactionType.GRANT else None,
            credit_note_id=grant.credit_note_id if kind is TransactionType.GRANT else None,
        ),
    )


def _move(grant: WalletGrant, account: Account, amount_minor: int) -> list[Entry]:
    """Move from a grant's balance to another account; less than 0: from there to it."""
    if not amount_minor:
        return []
    grant.balance_minor -= amount_minor
    return [
        Entry(account=Account.BALANCE, grant_id=grant.id, amount_minor=-amount_minor),
        Entry(account=account, grant_id=grant.id, amount_minor=amount_minor),
    ]


def _next_refill(grant: WalletGrant, timezone: str) -> datetime | None:
    if grant.every is None:
        return None
    assert grant.anchor is not None
    after = grant.refilled_until or grant.effective_at
    return next(occurrences(grant.anchor, timezone, grant.every, after), None)


def _by_order(grant: WalletGrant) -> tuple[int, datetime, datetime, str]:
    return grant.order
