"""One life, lived twice: by the real services over HTTP and by the oracle."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never
from zoneinfo import ZoneInfo

import httpx2

from tests.billing_oracle import life as books
from tests.billing_oracle.actions import (
    Action,
    Body,
    Cancel,
    Change,
    Give,
    OneOff,
    Pause,
    Resume,
    Start,
    Use,
    Void,
    VoidInvoice,
)
from tests.billing_oracle.money import ZERO, Discount, Grant, Tax
from tests.billing_oracle.periods import Grid
from tests.billing_oracle.statements import Biller
from tests.billing_oracle.story import Story, tell, tell_start
from tests.billing_oracle.terms import Contract, read_commitment
from tests.oracle.wire import get, post, rfc3339

PAGE = 100
METER = {"key": "calls", "event_type": "call", "aggregation": "sum", "value": "$.n"}


@dataclass
class Event:
    id: str
    time: datetime
    value: Decimal
    counts: bool = True


@dataclass
class Player:
    """A customer with a subscription, and what the oracle says of it. `story` has what happened."""

    api: httpx2.Client
    name: str
    start: Start
    clock: str
    now: datetime
    subscription: str = ""  # its id, once it has begun
    events: list[Event] = field(default_factory=list[Event])
    story: Story = field(default_factory=Story)

    @property
    def payer(self) -> str:
        return f"{self.name}-parent" if self.start.has_parent else self.name

    def begin(self) -> None:
        start, begin = self.start, self.now - timedelta(days=self.start.back_days)
        self._coupons = 0
        self._make_customer()
        body: Body = {
            "customer": self.name,
            "plan": f"{self.name}-plan-0",
            "start_at": rfc3339(begin),
            "quantities": {"seats": start.seats},
            "discounts": self._discounts(start.discounts),
            "trial_end_behavior": start.trial_end,
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
        if start.commitment is not None:
            body["commitment"] = start.commitment
        if start.threshold is not None:
            body["invoice_threshold"] = start.threshold
        self._contract = Contract(0, start.seats, commitment=read_commitment(start.commitment))
        self._to_come: list[tuple[datetime, Contract]] = []
        self.biller = Biller(
            currency=start.currency,
            usage=self._usage,
            discounts=[_read_discount(discount) for discount in start.discounts],
            taxes=[Tax(Decimal(percent), is_inclusive) for percent, is_inclusive in start.taxes],
        )
        self.life = books.Life(
            biller=self.biller,
            zone=start.zone,
            begins_at=begins_at,
            anchor=anchor,
            by_calendar=start.by_calendar,
            prices=self._contract.prices(start),
            now=self.now,
            commitment=self._contract.commitment,
            threshold=None if start.threshold is None else Decimal(start.threshold),
            end_at=end_at,
        )
        if start.trial_end == "cancel" or (start.trial_end != "activate" and not start.has_payment_method):
            self.life.cancel_at = begins_at if start.trial_days else None
        for give in start.grants:
            self._give(give)
        self.subscription = post(self.api, "/v1/subscriptions", body)["id"]
        tell_start(self.story, start)
        self.life.advance(self.now)

    def act(self, action: Action) -> None:
        """What a person could not do is left out."""
        match action:
            case Give():
                self._give(action)
            case VoidInvoice(number):
                self._void_invoice(number)
            case OneOff(amount):
                line = {"key": "work", "description": "Work", "amount": amount}
                post(self.api, "/v1/invoices", {"customer": self.payer, "lines": [line]})
                self.biller.one_off(self.now, "work", Decimal(amount))
                tell(self.story, action)
            case Change() | Pause() | Resume() | Cancel():
                if not self.life.has_ended and self.life.cancel_at is None:
                    self._arrange(action)
            case Use() | Void():
                raise AssertionError("events are sent and taken back for all lives at once")
            case _:
                assert_never(action)

    def arrive(self, to: datetime) -> None:
        """The clock is there."""
        self.life.advance(to)
        self.now = to

    def balance(self) -> Decimal:
        return Decimal(get(self.api, f"/v1/wallets/{self.wallet}")["balance"])

    def invoices(self) -> list[Body]:
        """All invoices with a line that costs something, oldest first."""
        found: list[Body] = []
        more: dict[str, str] = {}
        while True:
            page = get(self.api, "/v1/invoices", {"customer": self.payer, "limit": str(PAGE), **more})
            found += page["data"]
            if not page["has_more"]:
                break
            more = {"starting_after": page["next_cursor"]}
        return [invoice for invoice in reversed(found) if any(Decimal(line["amount"]) for line in invoice["lines"])]

    # Terms

    def _arrange(self, action: Change | Pause | Resume | Cancel) -> None:
        when = action.when if isinstance(action, Change | Cancel) else "now"
        at, said = self._at(when)
        end_at = self.life.end_at
        if any(each == at for each, _ in self._to_come) or (end_at is not None and at >= end_at):
            return
        self._follow()
        contract = self._contract_at(at)
        how: Body = {"at": said, "proration": "prorate" if action.prorate else "none"}
        match action:
            case Cancel():
                self._post("cancel", how)
                self.life.cancel(at, prorate=action.prorate)
            case Change():
                if contract.is_paused:
                    return
                self._post("change", how | self._said(action))
                if action.discounts is not None:
                    self.biller.discounts = [_read_discount(discount) for discount in action.discounts]
                if (action.plan, action.seats, action.addons, action.commitment) != (None,) * 4:
                    self._put(at, contract.changed(action), action.prorate, action.invoice_now)
            case Pause():
                if contract.is_paused or not self.life.has_begun:
                    return
                self._post("pause", how)
                self._put(at, replace(contract, is_paused=True), action.prorate)
            case Resume():
                if not contract.is_paused:
                    return
                self._post("resume", how)
                self._put(at, replace(contract, is_paused=False), action.prorate)
        tell(self.story, action, contract)

    def _at(self, when: str | int) -> tuple[datetime, str]:
        if when == "now":
            return self.now, "now"
        if when == "period_end":
            return self.life.longest_period_end(), "period_end"
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

    def _said(self, change: Change) -> Body:
        said: Body = {"invoice": "now" if change.invoice_now else "next"}
        if change.plan is not None:
            said["plan"] = f"{self.name}-plan-{change.plan}"
        if change.seats is not None:
            said["quantities"] = {"seats": change.seats}
        if change.addons is not None:
            addon = {"addon": f"{self.name}-addon", "quantity": str(change.addons)}
            said["addons"] = [addon] if change.addons else []
        if change.commitment is not None:
            said["commitment"] = change.commitment or None
        if change.discounts is not None:
            said["discounts"] = self._discounts(change.discounts)
        return said

    def _put(self, at: datetime, contract: Contract, prorate: bool, invoice_now: bool = False) -> None:
        self._to_come = [each for each in self._to_come if each[0] < at] + [(at, contract)]
        prices = contract.prices(self.start)
        self.life.change(books.Change(at, prices, prorate, invoice_now, contract.commitment))
        self._follow()

    def _post(self, verb: str, body: Body) -> None:
        answer = self.api.post(f"/v1/subscriptions/{self.subscription}/{verb}", json=body)
        assert answer.is_success, f"at {self.now} {verb} {body}: {answer.text}"

    # Money and usage

    def _give(self, give: Give) -> None:
        expires_at = None if give.days is None else self.now + timedelta(days=give.days)
        body: Body = {"amount": str(give.amount), "priority": give.priority}
        if expires_at is not None:
            body["expires_at"] = rfc3339(expires_at)
        if give.every is not None:
            body["recurrence"] = {"every": give.every}
        post(self.api, f"/v1/wallets/{self.wallet}/grants", body)
        refills = None if give.every is None else Grid(self.now, self.start.zone, give.every)
        self.biller.wallet.add(Grant(give.priority, expires_at, self.now, Decimal(give.amount), refills))
        tell(self.story, give)

    def _void_invoice(self, number: int) -> None:
        """One that a person can void: not void yet, and not below zero."""
        if not self.biller.invoices:
            return
        place = number % len(self.biller.invoices)
        invoice = self.biller.invoices[place]
        if invoice.is_void or invoice.totals.total < 0:
            return
        found = self.invoices()
        assert len(found) > place, f"at {self.now} there are {len(found)} invoices, not {len(self.biller.invoices)}"
        answer = self.api.post(f"/v1/invoices/{found[place]['id']}/void", json={})
        assert answer.is_success, f"at {self.now} void of invoice {place}: {answer.text}"
        self.biller.void(invoice, self.now)
        tell(self.story, VoidInvoice(number))

    def use(self, uses: Use) -> list[Body]:
        """The bodies of events that were not sent yet."""
        made = [
            Event(f"{self.name}-{len(self.events) + number}", self.now + timedelta(seconds=seconds), Decimal(value))
            for number, (seconds, value) in enumerate(uses.events)
        ]
        self.events += made
        stated_at = self.life.stated_at
        for event in made:
            self.story.tell("event" if stated_at is None or event.time >= stated_at else "late event")
        return [
            {"id": event.id, "type": "call", "subject": self.name, "time": rfc3339(event.time)}
            | {"data": {"n": str(event.value)}}
            for event in made
        ]

    def _usage(self, start: datetime, end: datetime) -> Decimal:
        return sum((event.value for event in self.events if event.counts and start <= event.time < end), ZERO)

    # The catalogue

    def _make_customer(self) -> None:
        start = self.start
        for number, prices in enumerate(start.plans):
            plan = {"key": f"{self.name}-plan-{number}", "currency": start.currency, "prices": list(prices)}
            post(self.api, "/v1/plans", plan)
        addon = {"key": f"{self.name}-addon", "currency": start.currency, "prices": list(start.addon)}
        post(self.api, "/v1/addons", addon)
        taxes = [f"{self.name}-tax-{number}" for number, _ in enumerate(start.taxes)]
        for key, (percent, is_inclusive) in zip(taxes, start.taxes, strict=True):
            post(self.api, "/v1/tax_rates", {"key": key, "name": "Tax", "percent": percent, "inclusive": is_inclusive})
        customer = {"currency": start.currency, "timezone": start.zone, "test_clock": self.clock}
        pays: Body = {"tax_rates": taxes, "has_payment_method": start.has_payment_method}
        if start.is_consolidated:
            pays["invoicing"] = "consolidated"
        if start.has_parent:
            post(self.api, "/v1/customers", {**customer, **pays, "external_id": self.payer})
            pays = {"parent": self.payer}
        post(self.api, "/v1/customers", {**customer, **pays, "external_id": self.name})
        self.wallet = post(self.api, "/v1/wallets", {"customer": self.payer, "currency": start.currency})["id"]

    def _discounts(self, discounts: tuple[Body, ...]) -> list[Body]:
        """As a subscription names them: one with a duration is a coupon of its own."""
        found: list[Body] = []
        for discount in discounts:
            if "duration" in discount:
                key, self._coupons = f"{self.name}-coupon-{self._coupons}", self._coupons + 1
                money = {"currency": self.start.currency} if "amount" in discount else {}
                post(self.api, "/v1/coupons", {"key": key, **discount, **money})
                found.append({"coupon": key})
            else:
                found.append(discount)
        return found


def _read_discount(discount: dict[str, Any]) -> Discount:
    percent, amount = discount.get("percent"), discount.get("amount")
    limit = {"once": 1, "repeating": discount.get("periods")}.get(discount.get("duration", "forever"))
    return Discount(None if percent is None else Decimal(percent), None if amount is None else Decimal(amount), limit)
