"""Plays a script to the real services by a test clock and to the oracle, and compares every invoice to the cent."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never
from zoneinfo import ZoneInfo

import httpx2

from tests.billing_oracle import life as books
from tests.billing_oracle.money import ZERO, Discount, Grant, Tax
from tests.billing_oracle.periods import months_later
from tests.billing_oracle.scripts import Action, Cancel, Change, Give, Pause, Resume, Script, Start, Use, Void
from tests.billing_oracle.terms import Contract
from tests.oracle.wire import get, post, rfc3339, wait_for

PAGE = 100
ADVANCE = {"hours": timedelta(hours=7), "days": timedelta(days=3, seconds=1), "weeks": timedelta(weeks=2)}
METER = {"key": "calls", "event_type": "call", "aggregation": "sum", "value": "$.n"}


@dataclass
class Event:
    id: str
    time: datetime
    value: Decimal
    counts: bool = True


@dataclass
class Player:
    """One life: a customer with a subscription, and what the oracle says of it."""

    api: httpx2.Client
    name: str
    start: Start
    clock: str
    now: datetime
    events: list[Event] = field(default_factory=list[Event])
    subscription: str = ""
    wallet: str = ""

    def begin(self) -> None:
        start, begin = self.start, self.now - timedelta(days=self.start.back_days)
        self._make_catalogue()
        customer = {"external_id": self.name, "currency": start.currency, "timezone": start.zone}
        taxes = [f"{self.name}-tax-{number}" for number, _ in enumerate(start.taxes)]
        post(self.api, "/v1/customers", {**customer, "test_clock": self.clock, "tax_rates": taxes})
        self.wallet = post(self.api, "/v1/wallets", {"customer": self.name, "currency": start.currency})["id"]
        body: dict[str, Any] = {
            "customer": self.name,
            "plan": f"{self.name}-plan-0",
            "start_at": rfc3339(begin),
            "quantities": {"seats": start.seats},
            "discounts": [self._discount(number) for number, _ in enumerate(start.discounts)],
        }
        zone = ZoneInfo(start.zone)
        begins_at = anchor = begin
        if start.trial_days:
            local = begin.astimezone(zone).replace(tzinfo=None, fold=0) + timedelta(days=start.trial_days)
            begins_at = anchor = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
            body["trial_days"] = start.trial_days
        if start.by_calendar:
            body["alignment"] = "calendar"
        if start.anchor_days:
            anchor = begin + timedelta(days=start.anchor_days)
            body["billing_anchor"] = rfc3339(anchor)
        end_at = None if start.end_days is None else begin + timedelta(days=start.end_days)
        if end_at is not None:
            body["end_at"] = rfc3339(end_at)
        self._contract = Contract(0, start.seats)
        self._to_come: list[tuple[datetime, Contract]] = []
        self._life = books.Life(
            currency=start.currency,
            zone=start.zone,
            begins_at=begins_at,
            anchor=anchor,
            by_calendar=start.by_calendar,
            prices=self._contract.prices(start),
            usage=self._usage,
            discounts=[_read_discount(discount) for discount in start.discounts],
            taxes=[Tax(Decimal(percent), is_inclusive) for percent, is_inclusive in start.taxes],
            end_at=end_at,
        )
        for give in start.grants:
            self._give(give)
        self.subscription = post(self.api, "/v1/subscriptions", body)["id"]
        self._life.advance(self.now, finalized_at=self.now)

    def act(self, action: Action) -> None:
        """What a person could not do is left out."""
        match action:
            case Give():
                self._give(action)
            case Use(events):
                self._use(events)
            case Void(number):
                if self.events:
                    self._void(self.events[number % len(self.events)])
            case Change() | Pause() | Resume() | Cancel():
                if not self._life.has_ended and self._life.cancel_at is None:
                    self._arrange(action)
            case _:
                assert_never(action)

    def arrive(self, to: datetime) -> None:
        """The clock is there."""
        self._life.advance(to)
        self.now = to

    def compare(self) -> None:
        expected = [_of_oracle(invoice) for invoice in self._life.invoices]
        found = [_of_product(invoice) for invoice in self._invoices() if _lines(invoice)]
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            assert one == other, f"{self._story()}\ninvoice {number}:\n  billed   {one}\n  expected {other}"
        assert len(found) == len(expected), f"{self._story()}\n  billed   {found}\n  expected {expected}"
        balance = Decimal(get(self.api, f"/v1/wallets/{self.wallet}")["balance"])
        assert balance == self._life.wallet.balance(self.now), self._story()

    def _story(self) -> str:
        return f"{self.name} at {self.now}: {self.start}"

    # Terms

    def _arrange(self, action: Change | Pause | Resume | Cancel) -> None:
        when = action.when if isinstance(action, Change | Cancel) else "now"
        at, said = self._at(when)
        end_at = self._life.end_at
        if any(each == at for each, _ in self._to_come) or (end_at is not None and at >= end_at):
            return
        self._follow()
        contract = self._contract_at(at)
        how: dict[str, Any] = {"at": said, "proration": "prorate" if action.prorate else "none"}
        match action:
            case Cancel():
                self._post("cancel", how)
                self._life.cancel(at, prorate=action.prorate, now=self.now)
            case Change():
                if not contract.is_paused:
                    how |= self._said(action)
                    self._put("change", how, at, contract.changed(action), action.prorate, action.invoice_now)
            case Pause():
                if not contract.is_paused and self._life.has_begun:
                    paused = Contract(contract.plan, contract.seats, contract.addons, is_paused=True)
                    self._put("pause", how, at, paused, action.prorate)
            case Resume():
                if contract.is_paused:
                    resumed = Contract(contract.plan, contract.seats, contract.addons)
                    self._put("resume", how, at, resumed, action.prorate)

    def _at(self, when: str | int) -> tuple[datetime, str]:
        if when == "now":
            return self.now, "now"
        if when == "period_end":
            return self._life.longest_period_end(self.now), "period_end"
        assert isinstance(when, int)
        at = self.now + timedelta(days=when)
        return at, rfc3339(at)

    def _follow(self) -> None:
        """Changes that were to come and have."""
        for at, contract in self._to_come:
            if at <= self.now:
                self._contract = contract
        self._to_come = [each for each in self._to_come if each[0] > self.now]

    def _contract_at(self, at: datetime) -> Contract:
        before = [contract for starts_at, contract in self._to_come if starts_at <= at]
        return before[-1] if before else self._contract

    def _said(self, change: Change) -> dict[str, Any]:
        said: dict[str, Any] = {"invoice": "now" if change.invoice_now else "next"}
        if change.plan is not None:
            said["plan"] = f"{self.name}-plan-{change.plan}"
        if change.seats is not None:
            said["quantities"] = {"seats": change.seats}
        if change.addons is not None:
            addon = {"addon": f"{self.name}-addon", "quantity": str(change.addons)}
            said["addons"] = [addon] if change.addons else []
        return said

    def _put(
        self, verb: str, how: dict[str, Any], at: datetime, contract: Contract, prorate: bool, invoice_now: bool = False
    ) -> None:
        self._post(verb, how)
        self._to_come = [each for each in self._to_come if each[0] < at] + [(at, contract)]
        change = books.Change(at, contract.prices(self.start), prorate, invoice_now)
        self._life.change(change, now=self.now)
        self._follow()

    def _post(self, verb: str, body: dict[str, Any]) -> None:
        answer = self.api.post(f"/v1/subscriptions/{self.subscription}/{verb}", json=body)
        assert answer.is_success, f"{self._story()}\n{verb} {body}: {answer.text}"

    # Money and usage

    def _give(self, give: Give) -> None:
        expires_at = None if give.days is None else self.now + timedelta(days=give.days)
        body = {"amount": str(give.amount), "priority": give.priority}
        post(
            self.api,
            f"/v1/wallets/{self.wallet}/grants",
            body if expires_at is None else {**body, "expires_at": rfc3339(expires_at)},
        )
        self._life.wallet.add(Grant(give.priority, expires_at, self.now, Decimal(give.amount)))

    def _use(self, uses: tuple[tuple[int, str], ...]) -> None:
        made = [
            Event(f"{self.name}-{len(self.events) + number}", self.now + timedelta(seconds=seconds), Decimal(value))
            for number, (seconds, value) in enumerate(uses)
        ]
        self.events += made
        body = [
            {"id": event.id, "type": "call", "subject": self.name, "time": rfc3339(event.time)}
            | {"data": {"n": str(event.value)}}
            for event in made
        ]
        post(self.api, "/v1/events", body, status=202)

    def _void(self, event: Event) -> None:
        def is_voided() -> bool:
            answer = self.api.post("/v1/events/void", json={"id": event.id})
            assert answer.status_code in (200, 202, 503), answer.text
            return answer.status_code == 200

        wait_for(is_voided, f"{event} is voided")
        event.counts = False

    def _usage(self, start: datetime, end: datetime) -> Decimal:
        return sum((event.value for event in self.events if event.counts and start <= event.time < end), ZERO)

    # The catalogue, and what is read

    def _make_catalogue(self) -> None:
        start = self.start
        for number, prices in enumerate(start.plans):
            plan = {"key": f"{self.name}-plan-{number}", "currency": start.currency, "prices": list(prices)}
            post(self.api, "/v1/plans", plan)
        addon = {"key": f"{self.name}-addon", "currency": start.currency, "prices": list(start.addon)}
        post(self.api, "/v1/addons", addon)
        for number, (percent, is_inclusive) in enumerate(start.taxes):
            rate = {"key": f"{self.name}-tax-{number}", "name": "Tax", "percent": percent, "inclusive": is_inclusive}
            post(self.api, "/v1/tax_rates", rate)

    def _discount(self, number: int) -> dict[str, Any]:
        discount = self.start.discounts[number]
        if "duration" not in discount:
            return discount
        key = f"{self.name}-coupon-{number}"
        post(self.api, "/v1/coupons", {"key": key, **discount})
        return {"coupon": key}

    def _invoices(self) -> Iterator[dict[str, Any]]:
        page = get(self.api, "/v1/invoices", {"subscription": self.subscription, "limit": str(PAGE)})
        assert not page["has_more"], "a script makes no more invoices than a page has"
        return reversed(page["data"])


def _read_discount(discount: dict[str, Any]) -> Discount:
    percent, amount = discount.get("percent"), discount.get("amount")
    limit = {"once": 1, "repeating": discount.get("periods")}.get(discount.get("duration", "forever"))
    return Discount(None if percent is None else Decimal(percent), None if amount is None else Decimal(amount), limit)


Line = tuple[str, str, str, Decimal]


def _lines(invoice: dict[str, Any]) -> list[Line]:
    """Lines that cost something, in an order of their own. A microsecond tells late changes apart, and nothing else."""
    found = [
        (line["key"], line["period"]["start"][:19], line["period"]["end"][:19], Decimal(line["amount"]))
        for line in invoice["lines"]
        if Decimal(line["amount"])
    ]
    return sorted(found)


MONEY = ("subtotal", "discount", "tax", "total", "credits_applied", "amount_due")


def _of_product(invoice: dict[str, Any]) -> tuple[Any, ...]:
    kind = "closing" if invoice["kind"] == "closing" else "subscription"
    return (
        invoice["period"]["end"][:19],
        kind,
        _lines(invoice),
        *((name, Decimal(invoice[name])) for name in MONEY),
    )


def _of_oracle(invoice: books.Invoice) -> tuple[Any, ...]:
    lines = sorted(
        (line.key, rfc3339(line.span[0])[:19], rfc3339(line.span[1])[:19], line.amount) for line in invoice.lines
    )
    kind = "closing" if invoice.is_closing else "subscription"
    found = invoice.totals
    amounts = (found.subtotal, found.discount, found.tax, found.total, invoice.credits_applied, invoice.amount_due)
    return (rfc3339(invoice.at)[:19], kind, lines, *zip(MONEY, amounts, strict=True))


def play(api: httpx2.Client, script: Script) -> None:
    """Fails with the first invoice that differs."""
    post(api, "/v1/meters", METER)
    now = script.start
    clock = post(api, "/v1/test_clocks", {"now": rfc3339(now)})["id"]
    players = [Player(api, f"c{number}", start, clock, now) for number, start in enumerate(script.lives)]
    for player in players:
        player.begin()
    now = _advance(api, clock, players, now + timedelta(minutes=1))
    for each in script.rounds:
        for player, actions in zip(players, each.actions, strict=True):
            for action in actions:
                player.act(action)
        now = _advance(api, clock, players, _later(now, each.advance, script.start))


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


def _advance(api: httpx2.Client, clock: str, players: list[Player], to: datetime) -> datetime:
    post(api, f"/v1/test_clocks/{clock}/advance", {"to": rfc3339(to)}, status=200)
    wait_for(lambda: get(api, f"/v1/test_clocks/{clock}")["status"] == "ready", f"the clock shows {to}")
    for player in players:
        player.arrive(to)
        player.compare()
    return to
