"""Lives, made by Hypothesis. Each is told what must happen in it, so that nothing is left to chance alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.billing_oracle.actions import (
    Action,
    Body,
    Cancel,
    Change,
    Give,
    OneOff,
    Pause,
    Plot,
    Resume,
    Script,
    Start,
    Use,
    Void,
    VoidInvoice,
)

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
ADVANCES = ("days", "month", "weeks", "hours", "month", "months", "days", "weeks")
ROUNDS = 7
UNLIMITED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)

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
def _plans(draw: st.DrawFn, period: str, amount: str) -> tuple[Body, ...]:
    usage = {"key": "calls", "type": "usage", "meter": "calls", "billing_period": period, **_model(draw)}
    usage |= draw(
        st.sampled_from(
            ({}, {"included_quantity": "2"}, {"minimum_amount": "4"}, {"maximum_amount": "90.5"}, {}),
        )
    )
    prices = [
        _fee(draw, "base", draw(st.just(period) | _periods), model="flat", amount=amount),
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


_discounts = st.sampled_from(
    (
        {"percent": "10"},
        {"percent": "33.3"},
        {"percent": "100"},
        {"amount": "5"},
        {"amount": "60"},
        {"percent": "50", "duration": "once"},
        {"percent": "15", "duration": "repeating", "periods": 2},
        {"amount": "7", "duration": "repeating", "periods": 3},
        {"percent": "15", "duration": "forever"},
    )
)
_gives = st.builds(
    Give,
    amount=st.sampled_from((5, 40, 300)),
    priority=st.sampled_from((1, 50, 90)),
    days=st.none() | st.integers(1, 90),
    every=st.sampled_from((None, None, "week", "month")),
)
_own_commitments = st.sampled_from(
    (
        {"amount": "200", "true_up": True, "billing_period": "month"},
        {"amount": "90", "overage_factor": "1.5", "true_up": True, "billing_period": "quarter"},
        {"amount": "600", "true_up": True, "billing_period": "year"},
    )
)
_commitments = _own_commitments | st.sampled_from(
    (
        {"amount": "30", "true_up": True},
        {"amount": "10.5", "overage_factor": "2"},
        {"amount": "50", "overage_factor": "1.25", "true_up": True},
    )
)
_taxes = st.tuples(st.sampled_from(("19", "7.7", "8.875")), st.booleans())

#: What a life may begin with beside the plainest; one of each group is in force at once.
BEGINNINGS = (
    *("plain", "back", "calendar", "trial", "anchor", "plain", "end", "back", "trial without method", "plain"),
    *("calendar", "trial", "back", "trial canceled", "anchor", "end", "plain"),
)


@st.composite
def _starts(draw: st.DrawFn, beginning: str, *, threshold: bool, number: int) -> Start:
    period = draw(_periods)
    amounts = sorted(draw(st.lists(_amounts, min_size=3, max_size=3, unique=True)), key=int)
    plans = [draw(_plans(period if draw(st.booleans()) else draw(_periods), amount)) for amount in amounts]
    is_trial = beginning.startswith("trial")
    return Start(
        currency=draw(st.sampled_from(("USD", "USD", "JPY", "KWD"))),
        zone=draw(st.sampled_from(ZONES)),
        plans=tuple(plans),
        addon=draw(_addons()),
        seats=draw(st.sampled_from(("1", "3", "12", "2.5"))),
        back_days=draw(st.integers(1, 100)) if beginning == "back" else 0,
        trial_days=draw(st.integers(1, 40)) if is_trial else 0,
        trial_end={"trial canceled": "cancel", "trial without method": "cancel_without_payment_method"}.get(
            beginning, "activate"
        ),
        has_payment_method=draw(st.booleans()),
        by_calendar=beginning == "calendar",
        anchor_days=draw(st.integers(1, 25)) if beginning == "anchor" else 0,
        end_days=draw(st.integers(5, 200)) if beginning == "end" else None,
        discounts=tuple(draw(st.lists(_discounts, max_size=2))),
        taxes=tuple(draw(st.lists(_taxes, max_size=2))),
        commitment=draw(st.none() | st.none() | _commitments),
        threshold=draw(st.sampled_from(("20", "75", "150"))) if threshold else None,
        grants=tuple(draw(st.lists(_gives, max_size=2))),
        has_parent=number % 3 == 2,
        is_consolidated=number % 5 == 3,
    )


_when = st.sampled_from(("now", "now", "now", "period_end", 3, 20))


@st.composite
def _changes(draw: st.DrawFn, what: str) -> Change:
    """A change of one thing at least, often of more."""

    def also(name: str, others: st.SearchStrategy[Any]) -> Any:
        return draw(others) if what == name or draw(st.integers(0, 4)) == 0 else None

    discounts = also("discounts", st.lists(_discounts, max_size=2).map(tuple))
    return Change(
        when=draw(_when) if discounts is None else "now",
        plan=also("plan", st.integers(0, 2)),
        seats=also("seats", st.sampled_from(("1", "2", "4", "7.5"))),
        addons=also("addons", st.integers(0, 3)),
        commitment=also("commitment", st.just({}) | _commitments),
        discounts=discounts,
        prorate=draw(st.booleans()),
        invoice_now=draw(st.integers(0, 2)) == 0,
    )


_values = st.sampled_from(("1", "2", "0.5", "12", "-1", "3.25", "100"))
_days = st.sampled_from((-66, -40, -33, -20, -9, -4, -2, -1, 0, 2, 9))
_seconds = st.tuples(_days, st.integers(0, DAY)).map(lambda at: at[0] * DAY + at[1])
_uses = st.lists(st.tuples(_seconds, _values), min_size=1, max_size=4).map(tuple).map(Use)
_ACTIONS: dict[str, st.SearchStrategy[Action]] = {
    "plan": _changes("plan"),
    "seats": _changes("seats"),
    "addons": _changes("addons"),
    "commitment": _changes("commitment"),
    "discounts": _changes("discounts"),
    "pause": st.booleans().map(Pause),
    "resume": st.booleans().map(Resume),
    "give": _gives,
    "void invoice": st.integers(0, 9).map(VoidInvoice),
    "one off": st.sampled_from(("12", "99", "250")).map(OneOff),
    "cancel": st.builds(Cancel, when=_when, prorate=st.booleans()),
}
#: What lives are told to contain, one after another: the plots of actions. A cancellation comes last.
TOLD: Sequence[Sequence[str]] = (
    ("plan", "seats", "pause", "resume", "addons"),
    ("addons", "plan", "void invoice", "plan", "cancel"),
    ("seats", "commitment", "plan", "one off", "give", "addons"),
    ("pause", "give", "resume", "plan", "one off", "cancel"),
    ("plan", "addons", "pause", "plan", "resume"),
    ("discounts", "one off", "plan", "void invoice", "seats", "pause"),
    ("commitment", "pause", "resume", "commitment", "cancel"),
    ("give", "addons", "seats", "discounts", "plan"),
)


@st.composite
def _plots(draw: st.DrawFn, number: int) -> Plot:
    """At most one action a turn makes a statement due, so that none depends on how soon it is made."""
    told = TOLD[number % len(TOLD)]
    beginning = BEGINNINGS[number % len(BEGINNINGS)]
    idle = draw(
        st.lists(st.integers(0, ROUNDS - 1), min_size=ROUNDS - len(told), max_size=ROUNDS - len(told), unique=True)
    )
    names = list(told)
    turns: list[tuple[Action, ...]] = []
    for turn in range(ROUNDS):
        found: list[Action] = draw(st.lists(_uses, min_size=turn % 2, max_size=1))
        found += draw(st.lists(st.integers(0, 9).map(Void), max_size=1)) if turn else []
        if turn not in idle and names:
            found.append(draw(_ACTIONS[names.pop(0)]))
        turns.append(tuple(found))
    return Plot(draw(_starts(beginning, threshold=number % 4 == 1, number=number)), tuple(turns))


def make_script(number: int, *, lives: int) -> Script:
    """The same script for a number every time."""
    turn = number % len(ADVANCES)
    return Script(
        start=STARTS[number % len(STARTS)],
        advances=(*ADVANCES[turn:], *ADVANCES[:turn])[:ROUNDS],
        plots=tuple(_plot(number * lives + life) for life in range(lives)),
    )


def _plot(number: int) -> Plot:
    made: list[Plot] = []

    @seed(number)
    @settings(max_examples=2, database=None, phases=[Phase.generate], suppress_health_check=UNLIMITED)
    @given(_plots(number))
    def make(plot: Plot) -> None:
        made.append(plot)

    make()
    return made[-1]  # the first is the plainest there is
