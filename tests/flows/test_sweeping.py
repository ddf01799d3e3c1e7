"""What is removed of counters and values, page by page, and what stays."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import pytest

from flows import counters, sweeping
from flows.catalogue import Catalogue
from flows.counters import CounterBook
from flows.sweeping import Sweeper
from infra.postgres.catalogue import head_version, load_changes
from infra.postgres.counters import SeededBy
from infra.postgres.pool import PgConnection, connect
from infra.settings import Settings
from tests.support.api import Api, running_api
from tests.support.stack import fresh_databases

JANUARY, MAY, JUNE = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 5, 6))
NOW = datetime(2026, 6, 15, tzinfo=UTC)
STARTS = (JANUARY, MAY, JUNE)
FORMER_SHARD = 5

Left = set[tuple[str, int, int]]  # entitlement, month of the period's start, shard or revision


@dataclass
class Swept:
    """A tenant's entitlements to a unique count by month, since January, and their counters of three periods."""

    connection: PgConnection
    numbers: dict[str, int]
    now: datetime = NOW

    def sweeper(self, *, shard: int = 0, shards: int = 1) -> Sweeper:
        """Of a process that has just begun."""
        catalogue, book = Catalogue(), CounterBook()
        version = head_version(self.connection)
        catalogue.advance(load_changes(self.connection, after=0, up_to=version), version)
        book.refresh(catalogue, self.now)
        layout = SeededBy(shard=shard, shards=shards)
        return Sweeper(connection=self.connection, book=book, layout=layout, clock=lambda: self.now)

    def counters(self) -> Left:
        return self._left("SELECT entitlement_no, period_start, shard AS more FROM entitlement_counters")

    def values(self) -> Left:
        return self._left("SELECT entitlement_no, period_start, meter_revision AS more FROM entitlement_values")

    def _left(self, query: LiteralString) -> Left:
        names = {number: name for name, number in self.numbers.items()}
        rows = self.connection.execute(query)
        return {(names[row["entitlement_no"]], row["period_start"].month, row["more"]) for row in rows}

    def sweep_round(self, **layout: int) -> None:
        self.now += sweeping.ROUND_EVERY
        self.sweeper(**layout).go_on(seq=0)


@pytest.fixture(scope="module")
def entitled(stack: Settings) -> Iterator[tuple[Api, dict[str, int]]]:
    """`living`, `ended` long ago, ended just now (`late`) and one that is `gone`."""
    with running_api(fresh_databases(stack)) as operator:
        api = operator.new_tenant()
        api.post("/v1/meters", {"key": "users", "event_type": "u", "aggregation": "unique_count", "value": "$.u"})
        api.post("/v1/features", {"key": "seats", "type": "metered", "meter": "users"})
        api.post("/v1/customers", {"external_id": "acme"})
        ends = {"living": None, "ended": "2026-05-14T00:00:00Z", "late": "2026-06-01T00:00:00Z", "gone": None}
        given = {name: _give(api, ends_at) for name, ends_at in ends.items()}
        with api.database.transaction() as connection:
            rows = connection.execute("SELECT id, no FROM entitlements").fetchall()
            connection.execute("UPDATE catalogue_changes SET body = body || '{\"active\": true}' WHERE kind = 'meter'")
        numbers = {row["id"]: row["no"] for row in rows}
        assert api.http.request("DELETE", f"/v1/customers/acme/entitlements/{given['gone']}").status_code == 200
        yield api, {name: numbers[given_id] for name, given_id in given.items()}


def _give(api: Api, ends_at: str | None) -> Any:
    body = {"feature": "seats", "limit": "9", "reset": "month", "starts_at": "2026-01-01T00:00:00Z"}
    with api.at("2026-01-01T00:00:00Z"):
        return api.post("/v1/customers/acme/entitlements", {**body, "ends_at": ends_at})["id"]


@pytest.fixture
def swept(entitled: tuple[Api, dict[str, int]]) -> Iterator[Swept]:
    """Each with counters of two shards, of which there is one now, and a value, in the three periods."""
    api, numbers = entitled
    with closing(connect(api.settings.postgres_dsn)) as connection:
        connection.execute("TRUNCATE entitlement_counters, entitlement_values, shards")
        connection.execute("INSERT INTO shards (shard) VALUES (0), (1)")
        for number in numbers.values():
            for start in STARTS:
                for shard in (0, FORMER_SHARD):
                    connection.execute(
                        "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, version)"
                        " VALUES (%s, %s, %s, 1, 1)",
                        (number, start, shard),
                    )
                connection.execute(
                    "INSERT INTO entitlement_values VALUES (%s, %s, 1, %s, 1)", (number, start, b"0123456789abcdef")
                )
        yield Swept(connection, numbers)


def kept(shards: tuple[int, ...]) -> Left:
    """What has to stay: the last two periods of the living one and of one that may be given another end."""
    months = [("living", 5), ("living", 6), ("late", 5), ("late", 6)]
    return {(name, month, shard) for name, month in months for shard in shards}


def test_what_is_gone_or_ended_long_ago_goes_and_of_the_others_what_is_before_the_former_period(swept: Swept) -> None:
    swept.sweep_round()
    assert swept.counters() == kept((0, FORMER_SHARD))
    assert swept.values() == kept((1,))
    swept.now += counters.ENDED_KEPT
    swept.sweep_round()
    assert {name for name, _, _ in swept.counters() | swept.values()} == {"living"}


def test_a_page_removes_no_more_than_it_may_and_a_process_that_starts_over_goes_on_there(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PAGE_SIZE", 1)
    monkeypatch.setattr(sweeping, "MAX_REMOVED", 2)
    rows, values = len(swept.counters()), len(swept.values())
    places: set[int] = set()
    for _ in range(30):
        swept.sweep_round()
        left = len(swept.counters()), len(swept.values())
        assert rows - 2 <= left[0] <= rows
        assert values - 2 <= left[1] <= values
        rows, values = left
        row = swept.connection.execute("SELECT swept_no FROM shards WHERE shard = 0").fetchone()
        assert row is not None
        places.add(row["swept_no"])
    assert (swept.counters(), swept.values()) == (kept((0, FORMER_SHARD)), kept((1,)))
    assert places == {0, swept.numbers["living"], swept.numbers["late"]}, "round after round"


def test_between_two_pages_and_two_rounds_is_a_rest(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "MAX_REMOVED", 2)
    sweeper, before = swept.sweeper(), len(swept.counters())
    for _ in range(3):
        sweeper.go_on(seq=0)
    assert len(swept.counters()) == before - 2
    for _ in range(before):
        swept.now += sweeping.PAGE_EVERY
        sweeper.go_on(seq=0)
    swept.now += sweeping.PAGE_EVERY
    sweeper.go_on(seq=0)
    swept.connection.execute(
        "UPDATE entitlement_counters SET period_start = '2025-12-01Z' WHERE period_start = %s", (MAY,)
    )
    swept.now += sweeping.PAGE_EVERY
    sweeper.go_on(seq=0)
    assert ("living", 12, 0) in swept.counters(), "the next round is later"
    swept.now += sweeping.ROUND_EVERY
    sweeper.go_on(seq=0)
    assert ("living", 12, 0) not in swept.counters()


@pytest.mark.parametrize("shard", [0, 1])
def test_a_shard_removes_its_own_rows_and_only_the_first_what_is_of_no_shard(swept: Swept, shard: int) -> None:
    swept.connection.execute("UPDATE entitlement_counters SET shard = 1 WHERE shard = %s", (FORMER_SHARD,))
    counters, values = swept.counters(), swept.values()
    swept.sweep_round(shard=shard, shards=2)
    assert swept.counters() == kept((shard,)) | {left for left in counters if left[2] != shard}
    assert swept.values() == (kept((1,)) if shard == 0 else values)


def test_a_process_that_was_replaced_removes_nothing(swept: Swept) -> None:
    before = swept.counters()
    swept.connection.execute("UPDATE shards SET next_seq = 8")
    sweeper = swept.sweeper()
    sweeper.go_on(seq=6)
    assert swept.counters() == before
    swept.now += sweeping.ROUND_EVERY
    sweeper.go_on(seq=7)
    assert swept.counters() == kept((0, FORMER_SHARD))


def test_what_another_has_in_hand_is_passed_by_until_the_next_round(entitled: tuple[Api, Any], swept: Swept) -> None:
    api, _ = entitled
    with api.database.transaction() as other:
        other.execute("UPDATE entitlement_counters SET used = 2 WHERE period_start = %s", (JANUARY,))
        other.execute("UPDATE entitlement_values SET refs = 2 WHERE period_start = %s", (JANUARY,))
        swept.connection.execute("SET lock_timeout = '10s'")
        swept.sweep_round()
        assert {month for name, month, _ in swept.counters() | swept.values() if name == "gone"} == {1}
    swept.sweep_round()
    assert (swept.counters(), swept.values()) == (kept((0, FORMER_SHARD)), kept((1,)))


def test_values_of_a_former_revision_go_where_the_next_one_is_counted(swept: Swept) -> None:
    number = swept.numbers["living"]
    swept.connection.execute("INSERT INTO entitlement_values SELECT entitlement_no, period_start, 2, value, 1 FROM"
                             " entitlement_values WHERE entitlement_no = %s", (number,))  # fmt: skip
    revise = (
        "UPDATE catalogue_changes SET body = body || jsonb_build_object('revision', %s::integer) WHERE kind = 'meter'"
    )
    swept.connection.execute(revise, (2,))
    try:
        swept.sweep_round()
    finally:
        swept.connection.execute(revise, (1,))
    assert {left for left in swept.values() if left[0] == "living"} == {("living", 5, 2), ("living", 6, 2)}
