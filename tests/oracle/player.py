"""Plays a script to the real services and to the oracle, and compares every answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never

import httpx2

from tests.oracle.answers import Query, answer
from tests.oracle.ledger import UNKNOWN_SUBJECT, Identity, Ledger
from tests.oracle.rules import Meter
from tests.oracle.scripts import (
    CUSTOMERS,
    LATER_CUSTOMERS,
    AddCustomer,
    KillFlow,
    Replay,
    Script,
    Send,
    SetMeter,
    Step,
    Void,
)
from tests.oracle.wire import (
    JSON,
    ask,
    batch_text,
    change_text,
    list_events,
    meter_text,
    post,
    rfc3339,
    wait_built,
    wait_counted,
    wait_for,
)

LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
START, END = LONG_AGO, datetime(2026, 1, 1, tzinfo=UTC)  # all that scripts send lies within
#: An average over time of a period without an end says nothing.
UNLIMITED = frozenset({"weighted_sum"})


class Player:
    """One tenant. `kill_flow` is what a step that kills does."""

    def __init__(self, api: httpx2.Client, kill_flow: Callable[[], None]) -> None:
        self._api = api
        self._kill_flow = kill_flow
        self._ledger = Ledger()
        self._entitled = ""

    def play(self, script: Script) -> None:
        """Fails with the first answer that differs."""
        for external_id, subjects in CUSTOMERS.items():
            self._add_customer(external_id, subjects)
        for meter in script.meters:
            self._set_meter(meter)
        self._entitle(script.meters[0])
        for step in script.steps:
            self._take(step)
        self._settle()
        self._compare_events()
        for query in [*self._whole(), *self._asked(script)]:
            found, expected = ask(self._api, query), answer(self._ledger, query)
            assert found == expected, f"{query}:\n  answered {found}\n  expected {expected}"
        self._compare_entitlement()

    def _take(self, step: Step) -> None:
        match step:
            case Send(events):
                distinct = len({event.identity for event in events})
                said = post(self._api, "/v1/events", batch_text(events), status=202)
                assert said == {"accepted": distinct, "duplicates": len(events) - distinct, "rejected": []}
                for event in events:
                    self._ledger.send(event)
            case AddCustomer(external_id):
                if external_id not in self._ledger.subjects:
                    self._settle()
                    self._add_customer(external_id, LATER_CUSTOMERS[external_id])
                    wait_for(self._are_replayed, f"the events of {external_id} are replayed")
            case SetMeter(meter):
                self._settle()
                self._set_meter(meter)
            case Void(number):
                if self._ledger.entries:
                    self._settle()
                    self._void(list(self._ledger.entries)[number % len(self._ledger.entries)])
            case Replay(code):
                self._settle()
                answered = self._api.post("/v1/events/replay", json={} if code is None else {"code": code})
                assert answered.is_success, answered.text
                self._ledger.replay(code)
            case KillFlow():
                self._kill_flow()
            case _:
                assert_never(step)

    def _add_customer(self, external_id: str, subjects: tuple[str, ...]) -> None:
        body = {"external_id": external_id, "name": external_id, "currency": "USD", "subjects": list(subjects)}
        post(self._api, "/v1/customers", body)
        self._ledger.add_customer(external_id, subjects)

    def _set_meter(self, meter: Meter) -> None:
        if meter.key in self._ledger.meters:
            answered = self._api.patch(f"/v1/meters/{meter.key}", content=change_text(meter), headers=JSON)
            assert answered.status_code == 200, f"{meter}: {answered.text}"
        else:
            post(self._api, "/v1/meters", meter_text(meter))
        wait_built(self._api, meter.key)
        self._ledger.set_meter(meter)

    def _entitle(self, meter: Meter) -> None:
        """Acme may use the meter's feature, and the answers to checks count from long ago."""
        self._entitled = meter.key
        post(self._api, "/v1/features", {"key": "f", "name": "F", "type": "metered", "meter": meter.key})
        entitlement = {"feature": "f", "limit": "1", "reset": "never", "enforcement": "hard"}
        plan = {"key": "p", "name": "P", "currency": "USD", "prices": [], "entitlements": [entitlement]}
        post(self._api, "/v1/plans", plan)
        start_at = rfc3339(LONG_AGO)
        post(self._api, "/v1/subscriptions", {"customer": "acme", "plan": "p", "start_at": start_at})

    def _void(self, identity: Identity) -> None:
        source, event_id = identity
        answered = self._api.post("/v1/events/void", json={"source": source, "id": event_id})
        assert answered.is_success, answered.text
        self._ledger.void(identity)

    def _settle(self) -> None:
        wait_counted(self._api, self._ledger.meters)

    def _are_replayed(self) -> bool:
        listed = list_events(self._api, status="quarantined", code=UNKNOWN_SUBJECT)
        entries = self._ledger.entries.items()
        return listed.keys() == {
            identity for identity, entry in entries if entry.code == UNKNOWN_SUBJECT and not entry.voided
        }

    def _compare_events(self) -> None:
        """Status, code, customer, copies, and what each meter took: as the list of events shows them."""
        listed = list_events(self._api)
        assert listed.keys() == self._ledger.entries.keys()
        for identity, entry in self._ledger.entries.items():
            shown = listed[identity]
            expected = {
                "status": self._ledger.status(identity),
                "code": None if entry.voided else entry.code,
                "customer": entry.customer,
                "copies": entry.copies,
                "conflict": entry.conflict,
            }
            assert {name: shown[name] for name in expected} == expected, f"{entry.event}: {shown}"
        for meter in self._ledger.meters.values():
            if meter.aggregation != "unique_count":
                self._compare_taken(meter, listed)

    def _compare_taken(self, meter: Meter, listed: dict[Identity, Any]) -> None:
        shown = {
            identity: (Decimal(taken["value"]), taken["group"])
            for identity, event in listed.items()
            for taken in event["meters"]
            if taken["meter"] == meter.key
        }
        expected = {
            entry.event.identity: (taken.value, dict(zip(meter.group_by, taken.group, strict=True)))
            for entry, taken in self._ledger.taken(meter)
        }
        assert shown == expected, f"taken by {meter}"

    def _whole(self) -> Iterator[Query]:
        """Of each meter everything, at once and as finely as groups go."""
        for meter in self._ledger.meters.values():
            yield Query(meter.key, START, END)
            yield Query(meter.key, START, END, "day", "America/New_York", by_customer=True, group_by=meter.group_by)

    def _asked(self, script: Script) -> Iterator[Query]:
        """The script's queries, as far as there is such a meter with such groups."""
        for query in script.queries:
            meter = self._ledger.meters.get(query.meter)
            if meter is not None:
                yield replace(
                    query,
                    group_by=tuple(name for name in query.group_by if name in meter.group_by),
                    filters={name: values for name, values in query.filters.items() if name in meter.group_by},
                )

    def _compare_entitlement(self) -> None:
        meter = self._ledger.meters[self._entitled]
        if meter.aggregation in UNLIMITED:
            return
        moment = datetime.now(UTC)
        body = {"customer": "acme", "feature": "f"}

        def check() -> Any:
            return post(self._api, "/v1/entitlements/check", body, status=200)

        wait_for(lambda: (at := check()["as_of"]) is not None and datetime.fromisoformat(at) > moment, "counters")
        rows = answer(self._ledger, Query(meter.key, LONG_AGO, moment + timedelta(days=1), customer="acme"))
        assert Decimal(check()["used"]) == next(iter(rows.values()), Decimal(0)), f"used of {meter}"
