"""What happens to a tenant's customers, made by Hypothesis: several lives by one clock, round by round."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

#: Where clocks begin: ends of months, a leap day, hours that clocks skip or show twice, an ordinary moment.
STARTS = (
    datetime(2031, 1, 31, 12, tzinfo=UTC),
    datetime(2032, 1, 30, 23, 59, 30, tzinfo=UTC),
    datetime(2032, 2, 29, 5, tzinfo=UTC),
    datetime(2031, 2, 9, 7, 30, tzinfo=UTC),
    datetime(2031, 10, 26, 0, 30, tzinfo=UTC),
    datetime(2031, 6, 17, 8, 14, 7, tzinfo=UTC),
)
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kathmandu")
DAY = 86_400
#: How long a clock goes on: also so that it stops where a period ends.
ADVANCES = ("hours", "days", "weeks", "month", "months")

Body = dict[str, Any]


@dataclass(frozen=True)
class Start:
    """A subscription. `plans` are bodies of prices; the first is the one that it begins with."""

    currency: str
    zone: str
    plans: tuple[tuple[Body, ...], ...]
    addon: tuple[Body, ...]
    seats: str
    back_days: int = 0
    trial_days: int = 0
    by_calendar: bool = False
    anchor_days: int = 0
    end_days: int | None = None
    discounts: tuple[Body, ...] = ()
    taxes: tuple[tuple[str, bool], ...] = ()  # percent, inclusive
    grants: tuple["Give", ...] = ()


@dataclass(frozen=True)
class Give:
    """A grant in the customer's wallet."""

    amount: int
    priority: int
    days: int | None


@dataclass(frozen=True)
class Change:
    """`when` is now, period_end, or a number of days from now."""

    when: str | int
    plan: int | None
    seats: str | None
    addons: int | None
    prorate: bool
    invoice_now: bool


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


Action = Give | Change | Pause | Resume | Cancel | Use | Void


@dataclass(frozen=True)
class Round:
    """What each life does while the clock stands still, and how far it goes then."""

    actions: tuple[tuple[Action, ...], ...]
    advance: str


@dataclass(frozen=True)
class Script:
    start: datetime
    lives: tuple[Start, ...]
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        return "\n".join(["", str(self.start), *map(str, self.lives), *map(str, self.rounds)])


_amounts = st.sampled_from(("49", "19", "10", "100", "7", "365"))
_units = st.sampled_from(("10", "3", "0.333", "0.015", "2.5"))
_periods = st.sampled_from(("month", "month", "month", "month", "week", "quarter", "year"))
_timings = st.sampled_from(("advance", "advance", "arrears"))


def _tiers(draw: st.DrawFn) -> list[Body]:
    flats = st.sampled_from(("0", "5", "1.5"))
    bounds = draw(
        st.lists(st.sampled_from(("2", "5", "10.5")), min_size=1, unique=True).map(lambda b: sorted(b, key=float))
    )
    return [{"up_to": bound, "unit_amount": draw(_units), "flat_amount": draw(flats)} for bound in (*bounds, None)]


def _model(draw: st.DrawFn) -> Body:
    model = draw(st.sampled_from(("per_unit", "per_unit", "graduated", "volume", "package")))
    if model == "per_unit":
        return {"model": model, "unit_amount": draw(_units)}
    if model == "package":
        return {
            "model": model,
            "package_size": draw(st.sampled_from(("1", "3", "10"))),
            "package_amount": draw(_amounts),
        }
    return {"model": model, "tiers": _tiers(draw)}


def _fee(draw: st.DrawFn, key: str, period: str, **model: Any) -> Body:
    return {"key": key, "type": "fixed", "billing_period": period, "timing": draw(_timings), **model}


@st.composite
def _plans(draw: st.DrawFn, period: str) -> tuple[Body, ...]:
    usage = {"key": "calls", "type": "usage", "meter": "calls", "billing_period": period, **_model(draw)}
    if draw(st.booleans()):
        usage["included_quantity"] = "2"
    prices = [
        _fee(draw, "base", draw(st.just(period) | _periods), model="flat", amount=draw(_amounts)),
        _fee(draw, "seats", period, **_model(draw)),
        usage,
    ]
    if draw(st.integers(0, 3)) == 0:
        prices.append(_fee(draw, "extra", draw(_periods), model="flat", amount=draw(_amounts)))
    return tuple(prices)


@st.composite
def _addons(draw: st.DrawFn) -> tuple[Body, ...]:
    once = {"key": "setup", "type": "fixed", "model": "flat", "amount": "100", "billing_period": "once"}
    return (_fee(draw, "support", draw(_periods), model="flat", amount=draw(_amounts)), once)


_discounts = st.one_of(
    st.sampled_from(("10", "33.3", "100")).map(lambda percent: {"percent": percent}),
    st.sampled_from(("5", "60")).map(lambda amount: {"amount": amount}),
    st.sampled_from(
        (
            {"percent": "50", "duration": "once"},
            {"percent": "15", "duration": "repeating", "periods": 2},
            {"percent": "15", "duration": "forever"},
        )
    ),
)
_gives = st.builds(
    Give,
    amount=st.sampled_from((5, 40, 300)),
    priority=st.sampled_from((1, 50, 90)),
    days=st.none() | st.integers(1, 90),
)


@st.composite
def _starts(draw: st.DrawFn) -> Start:
    period = draw(_periods)
    variant = draw(st.sampled_from(("plain", "plain", "back", "trial", "calendar", "anchor", "end")))
    plan = _plans(period) if draw(st.booleans()) else _periods.flatmap(_plans)
    return Start(
        currency=draw(st.sampled_from(("USD", "USD", "JPY", "KWD"))),
        zone=draw(st.sampled_from(ZONES)),
        plans=(draw(_plans(period)), draw(plan), draw(plan)),
        addon=draw(_addons()),
        seats=draw(st.sampled_from(("1", "3", "12", "2.5"))),
        back_days=draw(st.integers(1, 100)) if variant == "back" else 0,
        trial_days=draw(st.integers(1, 40)) if variant == "trial" else 0,
        by_calendar=variant == "calendar",
        anchor_days=draw(st.integers(1, 25)) if variant == "anchor" else 0,
        end_days=draw(st.integers(5, 200)) if variant == "end" else None,
        discounts=tuple(draw(st.lists(_discounts, max_size=2))),
        taxes=tuple(draw(st.lists(st.tuples(st.sampled_from(("19", "7.7", "8.875")), st.booleans()), max_size=2))),
        grants=tuple(draw(st.lists(_gives, max_size=2))),
    )


_when = st.sampled_from(("now", "now", "now", "period_end", 3, 20))
_changes = st.builds(
    Change,
    when=_when,
    plan=st.none() | st.integers(0, 2),
    seats=st.none() | st.sampled_from(("1", "2", "4", "7.5")),
    addons=st.none() | st.integers(0, 3),
    prorate=st.booleans(),
    invoice_now=st.booleans(),
).filter(lambda change: (change.plan, change.seats, change.addons) != (None, None, None))
_values = st.sampled_from(("1", "2", "0.5", "12", "-1", "3.25", "100"))
_uses = st.lists(st.tuples(st.integers(-70 * DAY, 10 * DAY), _values), min_size=1, max_size=4).map(tuple).map(Use)


def _actions(*, ends: bool) -> st.SearchStrategy[Action]:
    kinds: Sequence[st.SearchStrategy[Action]] = (
        _changes,
        _changes,
        _changes,
        st.booleans().map(Pause),
        st.booleans().map(Resume),
        st.booleans().map(Resume),
        _gives,
        *([st.builds(Cancel, when=_when, prorate=st.booleans())] if ends else []),
    )
    return st.one_of(kinds)


@st.composite
def _turns(draw: st.DrawFn, *, ends: bool) -> tuple[Action, ...]:
    """At most one that makes a statement due, so that none depends on how soon it is made."""
    found = list(draw(st.lists(_actions(ends=ends), max_size=1)))
    found += draw(st.lists(_uses, max_size=1)) + draw(st.lists(st.integers(0, 9).map(Void), max_size=1))
    return tuple(found)


@st.composite
def scripts(draw: st.DrawFn, *, lives: int, max_rounds: int) -> Script:
    rounds = draw(st.integers(3, max_rounds))
    return Script(
        start=draw(st.sampled_from(STARTS)),
        lives=tuple(draw(st.lists(_starts(), min_size=lives, max_size=lives))),
        rounds=tuple(
            Round(
                actions=tuple(draw(_turns(ends=number >= 2)) for _ in range(lives)),
                advance=draw(st.sampled_from(ADVANCES)),
            )
            for number in range(rounds)
        ),
    )
