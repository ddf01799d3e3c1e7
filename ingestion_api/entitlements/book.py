"""All entitlements of all tenants in memory, and how much of them is used: enough to answer a check without a store.

Two threads write, each parts of its own; whoever reads takes no lock. Where the book can't answer surely it says so,
and PostgreSQL is asked. `until` moves only after what it speaks of is in, and is read before: so `as_of` is true.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from infra.postgres.entitlement_copies import Terms
from infra.postgres.pool import Row
from ingestion_api.entitlements.decide import Basis, Question, in_effect
from ingestion_api.entitlements.ring import ChangeRing, Pair
from ingestion_api.entitlements.terms import period_at
from ingestion_api.entitlements.used import Freshness, Used, complete, freshness
from pricing.entitlement_terms import Former, formers_of
from pricing.entitlements import EntitlementPeriod
from schemas.balances import PLAIN, Counted
from schemas.counters import CounterPart, combine, holds
from schemas.instants import from_micros, to_micros
from schemas.meters import Aggregation

#: Of an entitlement, the newest periods are kept: what has ended, what runs, what follows.
PERIODS_KEPT = 3


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard has counted of a period, by a revision of its meter. `shards`: how many there were when it began
    to; a stale one counts for nothing."""

    counted: CounterPart
    revision: int
    version: int
    shards: int
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One check: customer and feature by id or by the user's own name."""

    customer: str
    feature: str
    quantity: Decimal | None


class Named(NamedTuple):
    """A customer and a feature. Each part is another object as soon as it is something else."""

    pair: Pair
    feature: Row
    name: tuple[str, str]  # tenant and external_id
    terms: tuple[tuple[Any, ...], ...] | None


@dataclass(slots=True)
class Book:
    """See above. `partitions`: how many the log of events has; `shards`: how many flows share it."""

    partitions: int
    shards: int
    changes: ChangeRing = field(default_factory=ChangeRing)
    _columns: tuple[str, ...] = ()
    _terms: dict[Pair, tuple[tuple[Any, ...], ...]] = field(default_factory=dict)
    _pairs: dict[str, set[Pair]] = field(default_factory=dict)  # by customer
    _customers: dict[Pair, str] = field(default_factory=dict)  # by tenant and reference
    _names: dict[str, tuple[str, str]] = field(default_factory=dict)  # tenant and external_id, by customer
    _tenants: dict[str, dict[str, None]] = field(default_factory=dict)  # customers, by tenant
    _pair_of: dict[int, Pair] = field(default_factory=dict)  # by entitlement
    _features: dict[Pair, Row] = field(default_factory=dict)  # by tenant and reference
    _keys: dict[str, Pair] = field(default_factory=dict)  # tenant and key, by feature
    _meters: dict[int, tuple[int, Aggregation]] = field(default_factory=dict)
    _counters: dict[int, dict[int, dict[int, Part]]] = field(default_factory=dict)
    _until: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many customers it knows."""
        return len(self._names)

    def take_terms(self, terms: Terms, *, replaced: Iterable[str]) -> None:
        """Take in all entitlements of some customers; those of `replaced` may have none left."""
        self._columns = terms.columns
        place = {name: index for index, name in enumerate(terms.columns)}
        number_at, customer_at, feature_at = place["no"], place["customer_id"], place["feature_id"]
        tenant_at, name_at = place["tenant_id"], place["customer"]
        found: dict[str, dict[Pair, list[tuple[Any, ...]]]] = {customer: {} for customer in replaced}
        for row in terms.rows:
            customer = row[customer_at]
            pair = (customer, row[feature_at])
            found.setdefault(customer, {}).setdefault(pair, []).append(row)
            self._pair_of[row[number_at]] = pair
            self._name(row[tenant_at], customer, row[name_at])
        for customer, pairs in found.items():
            former = self._pairs.get(customer, set())
            gone = {row[number_at] for pair in former for row in self._terms[pair]}
            gone -= {row[number_at] for rows in pairs.values() for row in rows}
            for pair in former - pairs.keys():
                del self._terms[pair]
            self._terms |= {pair: tuple(rows) for pair, rows in pairs.items()}
            self._pairs[customer] = set(pairs)
            for number in gone:
                self._pair_of.pop(number, None)
                self._counters.pop(number, None)
            self.changes.add(former | pairs.keys())

    def forget_others(self, terms: Terms, customers: Collection[str]) -> None:
        """These are all who are entitled to anything: nobody else is any more. `terms`: none, in the usual columns."""
        self.take_terms(terms, replaced=[each for each in list(self._pairs) if each not in customers])

    def _name(self, tenant_id: str, customer_id: str, external_id: str) -> None:
        former = self._names.get(customer_id)
        if former == (tenant_id, external_id):
            return
        if former is not None and self._customers.get(former) == customer_id:
            del self._customers[former]
        self._names[customer_id] = (tenant_id, external_id)
        self._tenants.setdefault(tenant_id, {})[customer_id] = None
        self._customers[tenant_id, customer_id] = customer_id  # an id wins over an equal external_id
        self._customers.setdefault((tenant_id, external_id), customer_id)

    def take_features(self, rows: Iterable[Row], *, replaced: Collection[str] = ()) -> None:
        """Take in features; those of `replaced` may be gone."""
        for feature_id in replaced:
            former = self._keys.pop(feature_id, None)
            if former is not None:
                self._features.pop((former[0], feature_id), None)
                self._features.pop(former, None)
        for row in rows:
            self._keys[row["id"]] = (row["tenant_id"], row["key"])
            self._features[row["tenant_id"], row["key"]] = row
            self._features[row["tenant_id"], row["id"]] = row

    def take_revisions(self, meters: Mapping[int, tuple[int, Aggregation]]) -> None:
        """Take in which revision of each meter readers use, and how it counts."""
        self._meters |= meters

    def take_part(self, number: int, start: int, shard: int, part: Part) -> None:
        """Take in what a shard has counted of a period, unless something newer is known."""
        periods = self._counters.setdefault(number, {})
        known = periods.get(start, {}).get(shard)
        if known is not None and known.version > part.version:
            return
        periods[start] = {**periods.get(start, {}), shard: part}  # a new one, see `parts`
        if len(periods) > PERIODS_KEPT:
            del periods[min(periods)]

    def take_counted(self, message: Counted) -> None:
        """Take in the rows of a message; `take_until` comes after."""
        columns = zip(message.entitlements, message.starts, message.revisions, message.used, strict=True)
        for place, (number, start, revision, used) in enumerate(columns):
            further = message.further.get(place, PLAIN)
            counted = CounterPart(Decimal(used), further.events, further.rank)
            part = Part(counted, revision, message.seq, message.shards, further.is_stale)
            self.take_part(number, start, message.shard, part)
        pairs = (self._pair_of.get(number) for number in message.entitlements)
        self.changes.add(pair for pair in pairs if pair is not None)

    def take_until(self, until: Mapping[int, int]) -> None:
        """Counters are complete up to here, by partition."""
        for partition, micros in until.items():
            if micros > self._until.get(partition, 0):
                self._until[partition] = micros

    def pairs(self, tenant_id: str, customer_id: str | None = None) -> list[Pair]:
        """All that the tenant's customers, or one of them, are or were entitled to."""
        customers = list(self._tenants.get(tenant_id, ())) if customer_id is None else [customer_id]
        return [pair for customer in customers for pair in sorted(self._pairs.get(customer, ()))]

    def tenant_of(self, pair: Pair) -> str | None:
        """Whose customer that is."""
        return self._names.get(pair[0], (None, ""))[0]

    def basis(self, tenant_id: str, asks: Sequence[Ask], now: datetime, *, at_any_rate: bool = False) -> Basis | None:
        """What the answers rest on; None: only PostgreSQL knows surely, be it that something is not there, is not
        counted, or runs by a test clock. `at_any_rate`: nobody else can be asked; None is then only what is unknown.
        """
        fresh = self.fresh(now)
        questions: list[Question] = []
        by_pair: dict[Pair, list[Row]] = {}
        periods: dict[int, EntitlementPeriod] = {}
        formers: dict[int, Former] = {}
        counted, before = dict[int, Used](), dict[int, Used]()
        for ask in asks:
            customer = self._customers.get((tenant_id, ask.customer))
            feature = self._features.get((tenant_id, ask.feature))
            if customer is None or feature is None:
                return None
            pair = (customer, feature["id"])
            if pair not in by_pair:
                rows = self.rows(pair, now)
                if any(row["test_clock_id"] is not None for row in rows):
                    return None
                present = [row for row in rows if in_effect(row)]
                if not present and not at_any_rate:
                    return None
                by_pair[pair] = rows
                for row in present if feature["type"] == "metered" else ():
                    period = period_at(row, now)
                    used = self._used(row, to_micros(period.start))
                    if used is None:
                        return None
                    periods[row["no"]], counted[row["no"]] = period, Used(quantity=used, fresh=fresh)
                formers |= formers_of(present, rows, periods) if feature["type"] == "metered" else {}
                for row in present:
                    if row["no"] in formers:
                        used = self._used(row, to_micros(formers[row["no"]].period.start))
                        if used is None:
                            return None
                        before[row["no"]] = Used(quantity=used, fresh=fresh)
            named = {"id": customer, "external_id": self._names[customer][1]}
            questions.append(Question(customer=named, feature=feature, quantity=ask.quantity))
        return Basis(
            questions=questions,
            rows=by_pair,
            periods=periods,
            formers=formers,
            counters=complete(counted),
            former_counters=complete(before),
            reserved={},
        )

    def question(self, tenant_id: str, ask: Ask) -> Question | None:
        """What is asked, be the customer known or not; None: the feature is not."""
        feature = self._features.get((tenant_id, ask.feature))
        if feature is None:
            return None
        customer = self._customers.get((tenant_id, ask.customer), "")
        named = {"id": customer, "external_id": self._names.get(customer, ("", ask.customer))[1]}
        return Question(customer=named, feature=feature, quantity=ask.quantity)

    def limits(self, question: Question, now: datetime) -> list[Row]:
        """The customer's metered entitlements to the feature that are in effect, as far as they are known surely: none
        of a test clock's."""
        if question.feature["type"] != "metered":
            return []
        rows = self.rows((question.customer["id"], question.feature["id"]), now)
        return [row for row in rows if row["test_clock_id"] is None and in_effect(row)]

    def named(self, tenant_id: str, customer: str, feature: str) -> Named | None:
        """Who and what that is, and the terms; None: one of them is not known."""
        customer_id = self._customers.get((tenant_id, customer))
        row = self._features.get((tenant_id, feature))
        if customer_id is None or row is None:
            return None
        pair = (customer_id, row["id"])
        return Named(pair, row, self._names[customer_id], self._terms.get(pair))

    def parts(self, number: int, start: int) -> Mapping[int, Part] | None:
        """What each shard has counted of a period: another object as soon as that is something else."""
        periods = self._counters.get(number)
        return None if periods is None else periods.get(start)

    def revision(self, meter_no: int) -> int | None:
        """The revision of a meter that readers use."""
        return self._meters.get(meter_no, (None, None))[0]

    def rows(self, pair: Pair, now: datetime) -> list[Row]:
        """Its entitlements, in effect or not. How a meter counts may have changed since they were read."""
        found: list[Row] = []
        for values in self._terms.get(pair, ()):
            row = dict(zip(self._columns, values, strict=True))
            row["now"] = now
            if row["meter_no"] in self._meters:
                row["aggregation"] = self._meters[row["meter_no"]][1]
            found.append(row)
        return found

    def _used(self, row: Row, start: int) -> Decimal | None:
        """What all shards have counted; None when some of it is not."""
        if row["meter_no"] not in self._meters:
            return None
        revision, aggregation = self._meters[row["meter_no"]]
        parts = [
            (shard, part)
            for shard, part in list(self._counters.get(row["no"], {}).get(start, {}).items())
            if part.revision == revision
            and holds(aggregation, shard=shard, shards=self.shards, seeded_shards=part.shards)
        ]
        if any(part.is_stale for _, part in parts) or sum(shard < self.shards for shard, _ in parts) < self.shards:
            return None
        return combine(aggregation, (part.counted for _, part in parts))

    def fresh(self, now: datetime) -> Freshness:
        """Up to when all that was acknowledged is counted here."""
        until = list(self._until.values())
        return freshness(from_micros(min(until)) if len(until) >= self.partitions else None, now)
