"""Keeps the book of entitlements in step with PostgreSQL and the flows, and says when it may be trusted.

Terms come from PostgreSQL by notification, counters from the topic of balances; both start from PostgreSQL. While one
of the two is not caught up, checks ask PostgreSQL. While PostgreSQL is away they are answered from the book as it is:
`as_of` and `lag_seconds` say how old that makes them.

Whoever changes something in this process sees it in its next check: the change raises a fence, and checks of its
tenant ask PostgreSQL until the notifications of the change have been taken in.
"""

import secrets
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import structlog

from infra.kafka.balances import BalanceReader
from infra.metrics import REPLICA_CUSTOMERS, REPLICA_LIVE
from infra.postgres.entitlement_copies import (
    Changed,
    counted_until,
    counter_rows,
    customers_after,
    listen,
    live_holds,
    load_features,
    load_revisions,
    next_changes,
    tell_fence,
    terms_of,
)
from infra.postgres.pool import PgConnection, PostgresError, check_soon, connect, connect_impatient
from infra.settings import Settings
from ingestion_api.entitlements.book import Ask, Book, Pair, Part
from ingestion_api.entitlements.decide import CheckView, decide, unknown_view
from ingestion_api.entitlements.stored import StoredUsage
from ingestion_api.entitlements.terms import period_at
from schemas.balances import Counted, Held
from schemas.errors import Retry
from schemas.instants import to_micros

WAIT = timedelta(milliseconds=100)  # for a notification or a message, before looking whether to stop
RETRY_SECONDS = 1
LOOK_EVERY = timedelta(seconds=2)  # whether PostgreSQL hangs: whoever only listens to it would not notice
CUSTOMERS_A_PAGE = 2_000
MAX_CHANGES = 1_000  # notifications taken in at once
MAX_HELD = 100_000  # pairs of which something was held, before those of the past are forgotten
#: For so long after its expiry a reservation may still hold: committed, and its events not counted yet.
COMMITTED_MICROS = 600 * 1_000_000
JOIN_SECONDS = 5
#: A message that tells of a hold may be lost, with the process that sent it or by the broker: what is held is read
#: again this often, and more rarely when reading takes long.
HOLDS_EVERY = timedelta(seconds=10)
HOLDS_FACTOR = 10  # times as long as a reading takes: the same thread follows counters

log = structlog.get_logger("meterline.replica")


class Replica:
    """For reads of the event loop; two threads of its own write. `start` and `close` belong to the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.book = self._new_book()
        self._stop = threading.Event()
        self._is_too_large = False
        self._terms_live = threading.Event()
        self._counters_live = threading.Event()
        self._store_away = False
        self._unreachable = False
        self._fences: dict[str, str] = {}  # by token: its tenant
        self._held: dict[Pair, int] = {}
        self._held_lock = threading.Lock()  # for those who write: threads of requests and one of ours
        self._seen: dict[int, tuple[int, int]] = {}  # by shard: process and number of its last message
        self._threads = [
            threading.Thread(target=self._run, args=(work, live), name=f"replica-{name}", daemon=True)
            for name, work, live in (
                ("terms", self._follow_terms, self._terms_live),
                ("counters", self._follow_counters, self._counters_live),
            )
        ]

    def _new_book(self) -> Book:
        return Book(partitions=self._settings.events_partitions, shards=self._settings.flow_shards)

    def start(self) -> None:
        """Begin to load and to follow."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(JOIN_SECONDS)

    @property
    def is_live(self) -> bool:
        """Whether all is loaded and followed."""
        return self._terms_live.is_set() and self._counters_live.is_set()

    @property
    def is_alone(self) -> bool:
        """Whether PostgreSQL could not be reached when it was last tried, a moment ago: nobody need wait for it."""
        return self._unreachable

    def is_current(self, tenant_id: str) -> bool:
        """Whether that is so, and all that this process has changed of the tenant is in."""
        return self.is_live and tenant_id not in list(self._fences.values())

    def answer(
        self, stored: StoredUsage, asks: Sequence[Ask], *, tenant_id: str, tenant_no: int, now: datetime
    ) -> list[CheckView] | None:
        """The decisions; None: ask PostgreSQL."""
        if not self.may_answer(tenant_id):
            return None
        basis = self.book.basis(tenant_id, asks, now, at_any_rate=self._store_away)
        if basis is None or (self._held and self._holds_some(basis.rows, now)):
            return None
        return decide(stored, basis, tenant_no=tenant_no, now=now)

    def answer_alone(
        self, stored: StoredUsage, asks: Sequence[Ask], *, tenant_id: str, tenant_no: int, now: datetime
    ) -> list[CheckView] | None:
        """The decisions while PostgreSQL can't be asked, as well as is known here; what is not known is decided by the
        feature's `on_unknown`. None: a feature is not even known."""
        found: list[CheckView] = []
        for ask in asks:
            basis = self.book.basis(tenant_id, [ask], now, at_any_rate=True)
            if basis is not None and not (self._held and self._holds_some(basis.rows, now)):
                found += decide(stored, basis, tenant_no=tenant_no, now=now)
                continue
            question = self.book.question(tenant_id, ask)
            if question is None:
                return None
            rows = self.book.limits(question, now)
            found.append(unknown_view(question, rows, {row["no"]: period_at(row, now) for row in rows}))
        return found

    def may_answer(self, tenant_id: str) -> bool:
        """Whether checks of the tenant are for us: the book is current, or nobody else can be asked."""
        return self._store_away or self.is_current(tenant_id)

    def holds(self, pair: Pair, now_micros: int) -> bool:
        """Whether something may be reserved of it."""
        return self._held.get(pair, 0) > now_micros

    def mark_held(self, message: Held) -> None:
        """Something is held of these: PostgreSQL is asked about them for that long."""
        with self._held_lock:
            if len(self._held) > MAX_HELD:
                now = to_micros(datetime.now(UTC))
                self._held = {key: until for key, until in self._held.items() if until > now}
            for key in message.keys:
                self._held[key] = max(self._held.get(key, 0), message.until)
        self.book.changes.add(message.keys)

    def _holds_some(self, keys: Iterable[Pair], now: datetime) -> bool:
        micros = to_micros(now)
        return any(self.holds(key, micros) for key in keys)

    @contextmanager
    def fence(self, tenant_id: str) -> Generator[Callable[[PgConnection], None]]:
        """Around a transaction that may change entitlements of the tenant: it calls what it is given, inside."""
        token = secrets.token_hex(8)

        def raise_(connection: PgConnection) -> None:
            if self._terms_live.is_set():
                self._fences[token] = tenant_id
                tell_fence(connection, token)

        committed = False
        try:
            yield raise_
            committed = True
        finally:
            if not committed:
                self._fences.pop(token, None)

    def _run(self, work: Callable[[threading.Event], None], live: threading.Event) -> None:
        """Work until it is to stop. Whatever goes wrong, checks ask PostgreSQL until all is loaded again."""
        while not (self._stop.is_set() or self._is_too_large):
            try:
                work(live)
            except (PostgresError, Retry) as error:
                log.warning("replica lost its source", work=threading.current_thread().name, error=str(error))
            except Exception:
                log.exception("replica starts over", work=threading.current_thread().name)
            finally:
                live.clear()
                REPLICA_LIVE.set(0)
            self._stop.wait(RETRY_SECONDS)

    def _follow_terms(self, live: threading.Event) -> None:
        try:
            connection = connect_impatient(self._settings.postgres_dsn)
        except PostgresError:
            self._store_away = self._unreachable = True
            raise
        with closing(connection):
            self._store_away = self._unreachable = False
            listen(connection)
            if not self._load_terms(connection):
                self._is_too_large = True
                self.book = self._new_book()
                return
            self._fences.clear()
            live.set()
            REPLICA_LIVE.set(self.is_live)
            log.info("entitlements loaded", customers=len(self.book))
            look_due = datetime.now(UTC) + LOOK_EVERY
            try:
                while not self._stop.is_set():
                    self._take_changes(connection)
                    if datetime.now(UTC) >= look_due:
                        check_soon(connection)
                        look_due = datetime.now(UTC) + LOOK_EVERY
            except PostgresError:
                self._store_away = True
                raise

    def _load_terms(self, connection: PgConnection) -> bool:
        """Load everything; False: there is too much of it."""
        self.book.take_features(load_features(connection, feature_ids=None))
        self.book.take_revisions(load_revisions(connection, meter_nos=None))
        count, after_id, known = 0, "", set[str]()
        while customers := customers_after(connection, after_id=after_id, limit=CUSTOMERS_A_PAGE):
            terms = terms_of(connection, customers)
            count += len(terms.rows)
            if count > self._settings.replica_max_entitlements:
                log.warning("too many entitlements to keep in memory: checks ask PostgreSQL", found=count)
                return False
            self.book.take_terms(terms, replaced=customers)
            known.update(customers)
            after_id = customers[-1]
        self.book.forget_others(terms_of(connection, []), known)  # who lost everything while nobody listened
        return True

    def _take_changes(self, connection: PgConnection) -> None:
        """Take in what has been committed since, and let the fences pass that stood behind it."""
        changed: dict[Changed, dict[str, None]] = {kind: {} for kind in Changed}
        wait = WAIT
        for _ in range(MAX_CHANGES):
            found = next_changes(connection, wait=wait)
            for kind, name in found:
                changed[kind][name] = None
            if not found:
                break
            wait = timedelta(0)
        if changed[Changed.FEATURE]:
            features = list(changed[Changed.FEATURE])
            self.book.take_features(load_features(connection, feature_ids=features), replaced=features)
        if changed[Changed.METER]:
            meter_nos = [int(number) for number in changed[Changed.METER]]
            self.book.take_revisions(load_revisions(connection, meter_nos=meter_nos))
        if changed[Changed.CUSTOMER]:
            customers = list(changed[Changed.CUSTOMER])
            self.book.take_terms(terms_of(connection, customers, paid_for=True), replaced=customers)
        for token in changed[Changed.FENCE]:
            self._fences.pop(token, None)
        REPLICA_CUSTOMERS.set(len(self.book))

    def _follow_counters(self, live: threading.Event) -> None:
        with closing(BalanceReader(self._settings.kafka_bootstrap, self._settings.balances_topic)) as reader:
            reader.start()
            with closing(connect(self._settings.postgres_dsn)) as connection:
                holds_due = self._load_holds(connection)
                for shard in range(self._settings.flow_shards):
                    self._load_counters(connection, shard)
            self._seen.clear()
            live.set()
            REPLICA_LIVE.set(self.is_live)
            log.info("counters loaded")
            while not (self._stop.is_set() or self._is_too_large):
                for message in reader.poll(wait_seconds=WAIT.total_seconds()):
                    if isinstance(message, Held):
                        self.mark_held(message)
                    else:
                        self._take_counted(message)
                if datetime.now(UTC) >= holds_due:
                    with closing(connect(self._settings.postgres_dsn)) as connection:
                        holds_due = self._load_holds(connection)

    def _load_holds(self, connection: PgConnection) -> datetime:
        """Take in what PostgreSQL knows to be held; when to do so again. Of what was known already no stream hears
        again."""
        now = datetime.now(UTC)
        with connection.transaction():
            for customer_id, feature_id, until in live_holds(connection, now=now):
                key, until_micros = (customer_id, feature_id), to_micros(until) + COMMITTED_MICROS
                if self._held.get(key, 0) <= to_micros(now):
                    self.mark_held(Held(keys=[key], until=until_micros))
                else:
                    with self._held_lock:
                        self._held[key] = max(self._held.get(key, 0), until_micros)
        ended = datetime.now(UTC)
        return ended + max(HOLDS_EVERY, (ended - now) * HOLDS_FACTOR)

    def _take_counted(self, message: Counted) -> None:
        """Take in a message. Where one before it is missing, the shard is read anew first: this one's `until` speaks
        for that one too."""
        process, number = self._seen.get(message.shard, (0, 0))
        if message.process != process or message.no != number + 1:
            with closing(connect(self._settings.postgres_dsn)) as connection:
                self._load_counters(connection, message.shard)
        self.book.take_counted(message)
        self.book.take_until(message.until)
        self._seen[message.shard] = (message.process, message.no)

    def _load_counters(self, connection: PgConnection, shard: int) -> None:
        with connection.transaction():  # `until` is read first: the rows are as new or newer
            until = counted_until(connection, topic=self._settings.events_topic, shard=shard)
            for row, shards, version in counter_rows(connection, shard=shard):
                part = Part(row.part, row.meter_revision, version, shards, row.is_stale)
                self.book.take_part(row.entitlement_no, to_micros(row.period_start), shard, part)
        self.book.take_until({partition: to_micros(instant) for partition, instant in until.items()})
