"""Plays scripts: many lives by one clock, so that one advance proves them all, to the cent."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import httpx2

from tests.billing_oracle.actions import Action, Body, Plot, Script, Use, Void
from tests.billing_oracle.periods import months_later
from tests.billing_oracle.player import METER, Event, Player
from tests.billing_oracle.statements import Invoice
from tests.billing_oracle.story import Story, tell_end
from tests.oracle.wire import get, post, rfc3339, wait_for

ADVANCE = {"hours": timedelta(hours=7), "days": timedelta(days=3, seconds=1), "weeks": timedelta(weeks=2)}
ADVANCE_SECONDS = 240  # that an advance of many lives may take
EVENTS_A_REQUEST = 1_000
AT_ONCE = 6  # lives of a script that ask at one time


@dataclass(frozen=True)
class Disagreement:
    """A life in which the services and the oracle differ."""

    plot: Plot
    what: str


@dataclass(frozen=True)
class Played:
    """`plots`: by the id of its subscription, of each life that came to have one."""

    stories: Sequence[Story]
    plots: Mapping[str, Plot]
    disagreements: Sequence[Disagreement]


def play(api: httpx2.Client, script: Script) -> Played:
    """Every life of a script, by a clock of its own. What lives do at one time they do side by side."""
    post(api, "/v1/meters", METER)
    now = script.start
    clock = post(api, "/v1/test_clocks", {"now": rfc3339(now)})["id"]
    players = [Player(api, f"c{number}", plot.start, clock, now) for number, plot in enumerate(script.plots)]
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(AT_ONCE) as lives:
        _side_by_side(lives, [partial(_try, player, failed, player.begin) for player in players])
        now = _advance(api, clock, players, failed, now + timedelta(minutes=1))
        for turn, advance in enumerate(script.advances):
            acting = [
                (player, plot.turns[turn] if turn < len(plot.turns) else ())
                for player, plot in zip(players, script.plots, strict=True)
                if player.name not in failed
            ]
            _send(
                api, [(player, action) for player, actions in acting for action in actions if isinstance(action, Use)]
            )
            # What was sent is there, and what was taken back is gone, before anything is billed.
            _side_by_side(lives, [partial(_void, api, player, actions) for player, actions in acting])
            _side_by_side(lives, [partial(_act, player, actions, failed) for player, actions in acting])
            now = _advance(api, clock, players, failed, _later(now, advance, script.start))
        _side_by_side(lives, [partial(_try, player, failed, partial(compare, player)) for player in players])
    for player in players:
        if player.name not in failed:
            tell_end(player.story, player.biller)
    return Played(
        stories=[player.story for player in players],
        plots={player.subscription: plot for player, plot in zip(players, script.plots, strict=True)},
        disagreements=[
            Disagreement(plot, failed[player.name])
            for player, plot in zip(players, script.plots, strict=True)
            if player.name in failed
        ],
    )


def _side_by_side(lives: ThreadPoolExecutor, doings: Sequence[Callable[[], None]]) -> None:
    for doing in [lives.submit(do) for do in doings]:
        doing.result()


def _act(player: Player, actions: Sequence[Action], failed: dict[str, str]) -> None:
    for action in actions:
        if not isinstance(action, Use | Void):
            _try(player, failed, partial(player.act, action))


def _try(player: Player, failed: dict[str, str], do: Callable[[], None]) -> None:
    """Note how a life failed, and go on with the others."""
    if player.name in failed:
        return
    try:
        do()
    except AssertionError as error:
        failed[player.name] = f"{player.name}: {error}"


def _send(api: httpx2.Client, uses: Sequence[tuple[Player, Use]]) -> None:
    events = [body for player, use in uses for body in player.use(use)]
    for start in range(0, len(events), EVENTS_A_REQUEST):
        post(api, "/v1/events", events[start : start + EVENTS_A_REQUEST], status=202)


def _void(api: httpx2.Client, player: Player, actions: Sequence[Action]) -> None:
    for void in actions:
        if not isinstance(void, Void) or not player.events:
            continue
        event = player.events[void.number % len(player.events)]

        def is_voided(event: Event = event) -> bool:
            answer = api.post("/v1/events/void", json={"id": event.id})
            assert answer.status_code in (200, 202, 503), answer.text
            return answer.status_code == 200

        wait_for(is_voided, f"{event} is voided")
        event.counts = False
        player.story.tell("void event")


def _later(now: datetime, how: str, anchor: datetime) -> datetime:
    """`month` is up to the next end of the month that the script's start began: where periods end."""
    if how in ADVANCE:
        return now + ADVANCE[how]
    if how == "months":
        return now + timedelta(days=75, minutes=5)
    number = 1
    while (found := months_later(anchor.replace(tzinfo=None), number).replace(tzinfo=UTC)) <= now:
        number += 1
    return found


def _advance(
    api: httpx2.Client, clock: str, players: Sequence[Player], failed: dict[str, str], to: datetime
) -> datetime:
    post(api, f"/v1/test_clocks/{clock}/advance", {"to": rfc3339(to)}, status=200)
    wait_for(
        lambda: get(api, f"/v1/test_clocks/{clock}")["status"] == "ready", f"the clock shows {to}", ADVANCE_SECONDS
    )
    for player in players:
        _try(player, failed, partial(player.arrive, to))
    return to


def compare(player: Player) -> None:
    """Fails with the first invoice that differs."""
    expected = [_of_oracle(invoice) for invoice in player.biller.invoices]
    found = [_of_product(invoice) for invoice in player.invoices()]
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"invoice {number}:\n  billed   {one}\n  expected {other}"
    assert len(found) == len(expected), f"\n  billed   {found[len(expected) :]}\n  expected {expected[len(found) :]}"
    balance, kept = player.balance(), player.biller.wallet.balance(player.now)
    assert balance == kept, f"the wallet has {balance}, not {kept}"


Line = tuple[str, str, str, Decimal]
MONEY = ("subtotal", "discount", "tax", "total", "credits_applied", "amount_due")


def _of_product(invoice: Body) -> tuple[Any, ...]:
    """Lines that cost something, in an order of their own. A microsecond tells late changes apart, and nothing else."""
    lines = sorted(
        (line["key"], *_span(line), Decimal(line["amount"])) for line in invoice["lines"] if Decimal(line["amount"])
    )
    is_void = invoice["status"] == "void"
    amounts = ((name, Decimal(invoice[name])) for name in MONEY)
    return (invoice["period"]["end"][:19], invoice["kind"], is_void, lines, *amounts)


def _span(line: Body) -> tuple[str, str]:
    """From when to when; of a commitment its end alone, since what it is held against says where it begins."""
    start, end = line["period"]["start"][:19], line["period"]["end"][:19]
    return (end, end) if line["key"] == "commitment" else (start, end)


def _of_oracle(invoice: Invoice) -> tuple[Any, ...]:
    lines = sorted(
        (line.key, rfc3339(line.span[0])[:19], rfc3339(line.span[1])[:19], line.amount) for line in invoice.lines
    )
    found = invoice.totals
    amounts = (found.subtotal, found.discount, found.tax, found.total, invoice.credits_applied, invoice.amount_due)
    return (rfc3339(invoice.at)[:19], invoice.kind, invoice.is_void, lines, *zip(MONEY, amounts, strict=True))
