"""Answers to checks of metered features, kept but for what a request brings: its quantity, and how old they are by now.

An answer is a pure function of what the book holds, which replaces an object when it changes. So a kept answer is right
as long as the book has the very objects that it was made of, and no period or term has begun or ended since. Whatever
is not kept, and all that is not known surely, is decided by the replica.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import cast

from ingestion_api.answers import encode
from ingestion_api.auth import Principal
from ingestion_api.entitlements.book import Ask, Book, Named, Part
from ingestion_api.entitlements.decide import CheckView, in_effect
from ingestion_api.entitlements.replica import Replica
from ingestion_api.entitlements.ring import Pair
from ingestion_api.entitlements.stored import StoredUsage
from ingestion_api.entitlements.terms import period_at
from ingestion_api.entitlements.used import Freshness
from ingestion_api.fields import MAX_INSTANT
from pricing.entitlements import Decision, Enforcement, check
from schemas.instants import to_micros

MAX_KEPT = 50_000  # pairs, of about a kilobyte each; when there are more it begins anew

#: What an answer says of its age: at its end, and never kept.
AGE = ["as_of", "lag_seconds"]


@dataclass(frozen=True, slots=True)
class _Counter:
    """Of one entitlement: its number, the start of its period, its meter; and what was found there."""

    number: int
    start: int
    meter_no: int
    revision: int | None
    parts: Mapping[int, Part] | None

    def stands(self, book: Book) -> bool:
        return book.parts(self.number, self.start) is self.parts and book.revision(self.meter_no) == self.revision


@dataclass(frozen=True, slots=True)
class _Sources:
    """What an answer is made of, from when and until when it can stand."""

    named: Named
    counters: tuple[_Counter, ...]
    since: datetime
    until: datetime

    def stand(self, book: Book, named: Named, now: datetime) -> bool:
        mine = self.named
        return (
            mine.terms is named.terms
            and mine.feature is named.feature
            and mine.name is named.name
            and self.since <= now < self.until
            and all(counter.stands(book) for counter in self.counters)
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer in pieces: before the decision and after it."""

    sources: _Sources
    limit: Decimal | None
    used: Decimal
    enforcement: Enforcement
    head: bytes
    unasked: bytes  # the decision on no quantity
    tail: bytes

    def answer(self, quantity: Decimal | None, age: bytes) -> bytes:
        if quantity is None:
            return self.head + self.unasked + self.tail + age
        decided = check(limit=self.limit, used=self.used, quantity=quantity, enforcement=self.enforcement)
        return self.head + _decision(decided.allowed, decided.reason) + self.tail + age


class PreparedAnswers:
    """For the event loop's thread alone."""

    def __init__(self, replica: Replica, stored: StoredUsage) -> None:
        self._replica = replica
        self._stored = stored
        self._kept: dict[Pair, _Kept] = {}

    def answer(self, asks: list[Ask], principal: Principal, now: datetime) -> list[bytes] | None:
        """The answers, encoded; None: ask PostgreSQL."""
        if not self._replica.may_answer(principal.tenant_id):
            return None
        age = _age(self._replica.book.fresh(now))  # read before what it speaks for
        answers: list[bytes] = []
        for ask in asks:
            answer = self._answer(ask, principal, now, age)
            if answer is None:
                return None
            answers.append(answer)
        return answers

    def _answer(self, ask: Ask, principal: Principal, now: datetime, age: bytes) -> bytes | None:
        book = self._replica.book
        named = book.named(principal.tenant_id, ask.customer, ask.feature)
        if named is None or self._replica.holds(named.pair, to_micros(now)):
            return None
        kept = self._kept.get(named.pair)
        if kept is not None and kept.sources.stand(book, named, now):
            return kept.answer(ask.quantity, age)
        sources = _sources(book, named, now)  # read before the answer is made: what changes meanwhile is noticed
        views = self._replica.answer(
            self._stored, [ask], tenant_id=principal.tenant_id, tenant_no=principal.tenant_no, now=now
        )
        if views is None:
            return None
        if sources is not None and views[0]["used"] is not None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[named.pair] = _keep(sources, views[0])
        return encode(views[0])


def _sources(book: Book, named: Named, now: datetime) -> _Sources | None:
    """None: it is not metered, or nothing is in effect, or a test clock says when, or what is left carries over: that
    rests on former periods, too."""
    rows = book.rows(named.pair, now)
    present = [row for row in rows if in_effect(row)]
    if named.feature["type"] != "metered" or not present:
        return None
    if any(row["test_clock_id"] is not None or row.get("rollover_max") is not None for row in rows):
        return None
    turns = [instant for row in rows for instant in (row["effective_at"], row["holds_until"])]
    counters: list[_Counter] = []
    for row in present:
        period, meter_no = period_at(row, now), row["meter_no"]
        start = to_micros(period.start)
        counters.append(_Counter(row["no"], start, meter_no, book.revision(meter_no), book.parts(row["no"], start)))
        turns.append(period.end)
    until = min((turn for turn in turns if turn is not None and turn > now), default=MAX_INSTANT)
    return _Sources(named, tuple(counters), since=now, until=until)


def _keep(sources: _Sources, view: CheckView) -> _Kept:
    names = list(view)
    first, last = names.index("allowed"), names.index(AGE[0])
    assert names[first : first + 2] == ["allowed", "reason"]
    assert names[last:] == AGE
    limit, used, enforcement = view["limit"], view["used"], view["enforcement"]
    assert used is not None
    assert enforcement is not None
    limit = None if limit is None else Decimal(limit)
    decided: Decision = check(limit=limit, used=Decimal(used), enforcement=Enforcement(enforcement))
    return _Kept(
        sources=sources,
        limit=limit,
        used=Decimal(used),
        enforcement=Enforcement(enforcement),
        head=_part(view, names[:first])[:-1],
        unasked=_decision(decided.allowed, decided.reason),
        tail=_part(view, names[first + 2 : last])[1:-1],
    )


def _part(view: CheckView, names: list[str]) -> bytes:
    fields = cast("dict[str, object]", view)
    return encode({name: fields[name] for name in names})


def _decision(allowed: bool, reason: str) -> bytes:
    return b',"allowed":%b,"reason":"%b",' % (b"true" if allowed else b"false", reason.encode())


def _age(fresh: Freshness) -> bytes:
    return b"," + encode({"as_of": fresh.as_of, "lag_seconds": fresh.lag_seconds})[1:]
