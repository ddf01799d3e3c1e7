"""What happens to customers, as data: how subscriptions begin, and what people do round by round."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Give:
    """A grant in the customer's wallet. `every`: it is filled up again as often."""

    amount: int
    priority: int
    days: int | None = None
    every: str | None = None


@dataclass(frozen=True)
class Start:
    """A subscription. `plans` are bodies of prices, each dearer than the one before; the first is the one it has."""

    currency: str
    zone: str
    plans: tuple[tuple[Body, ...], ...]
    addon: tuple[Body, ...]
    seats: str
    back_days: int = 0
    trial_days: int = 0
    trial_end: str = "activate"
    has_payment_method: bool = False
    by_calendar: bool = False
    anchor_days: int = 0
    end_days: int | None = None
    discounts: tuple[Body, ...] = ()
    taxes: tuple[tuple[str, bool], ...] = ()  # percent, inclusive
    commitment: Body | None = None
    threshold: str | None = None
    grants: tuple[Give, ...] = ()
    has_parent: bool = False  # who pays: taxes, wallet and payment method are the parent's
    is_consolidated: bool = False


@dataclass(frozen=True)
class Change:
    """`when` is now, period_end, or a number of days from now. What is None stays; a commitment of {} is none."""

    when: str | int = "now"
    plan: int | None = None
    seats: str | None = None
    addons: int | None = None
    commitment: Body | None = None
    discounts: tuple[Body, ...] | None = None
    prorate: bool = True
    invoice_now: bool = False


@dataclass(frozen=True)
class Pause:
    prorate: bool


@dataclass(frozen=True)
class Resume:
    prorate: bool


@dataclass(frozen=True)
class Cancel:
    when: str | int
    prorate: bool


@dataclass(frozen=True)
class Use:
    """Events, each so many seconds from what the clock shows, and how much."""

    events: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Void:
    """Take back one of the events sent so far; the number counts on from the first, round and round."""

    number: int


@dataclass(frozen=True)
class VoidInvoice:
    """Take back one of the invoices so far; the number counts on from the first, round and round."""

    number: int


@dataclass(frozen=True)
class OneOff:
    """Something that no subscription bills."""

    amount: str


Action = Give | Change | Pause | Resume | Cancel | Use | Void | VoidInvoice | OneOff


@dataclass(frozen=True)
class Plot:
    """One life: how it begins, and what happens to it in each round, while the clock stands still."""

    start: Start
    turns: tuple[tuple[Action, ...], ...]


@dataclass(frozen=True)
class Script:
    """Lives by one clock. After each round it goes on: hours, days, weeks, month (to its end) or months."""

    start: datetime
    advances: tuple[str, ...]
    plots: tuple[Plot, ...]

    def alone(self, plot: Plot) -> "Script":
        return Script(self.start, self.advances, (plot,))
