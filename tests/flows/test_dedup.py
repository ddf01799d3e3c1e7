"""The first copy in the log counts, whatever is in memory, on its way, or judged again."""

from datetime import timedelta

import numpy as np
import pytest

from flows import dedup as dedup_module
from flows.decode import decode
from flows.dedup import Dedup, IdentityFilter, identity
from flows.events import Events
from infra.clickhouse.sink import StoredIdentity
from tests.flows.columns import APPENDED_AT_MS, columns, message
from tests.support.usage_log import Sent

DAY_MS = 86_400_000
WINDOW = timedelta(days=35)

Stored = dict[bytes, list[StoredIdentity]]


def at(ids: list[str], *, offset: int, days: float = 0) -> Events:
    """Events of one message of the log."""
    sent = [Sent(id=event_id) for event_id in ids]
    decoded, _ = decode(
        [message(sent, offset=offset, appended_at_ms=APPENDED_AT_MS + int(days * DAY_MS))], partitions=1
    )
    assert decoded is not None
    return decoded


def places(events: Events) -> Stored:
    """What ClickHouse would say after these were stored."""
    return {
        identity(events, row): [
            StoredIdentity(
                int(events.partitions[row]),
                int(events.offsets[row]),
                int(events.indexes[row]),
                int(events.received_at[row]),
            )
        ]
        for row in range(len(events))
    }


def judge_of(stored: Stored) -> Dedup:
    """A judge as after a restart: its filter knows what is stored."""
    known = IdentityFilter()
    for key in stored:
        known.add(np.frombuffer(key, "<u8").reshape(1, 2))
    return Dedup(known=known, look_up=lambda keys: {key: stored[key] for key in keys if key in stored}, window=WINDOW)


def test_the_first_of_copies_in_one_batch_counts() -> None:
    assert judge_of({}).judge(at(["a", "b", "a", "a", "c"], offset=0), seq=1).tolist() == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_a_copy_is_recognised_while_its_first_is_on_its_way_and_after_it_was_stored() -> None:
    stored: Stored = {}
    judge = judge_of(stored)
    first = at(["a"], offset=0)
    assert judge.judge(first, seq=1).all()
    assert not judge.judge(at(["a"], offset=1), seq=2).any()
    stored |= places(first)
    judge.forget([1])
    assert not judge.judge(at(["a"], offset=2), seq=3).any()


def test_a_batch_stored_between_the_snapshot_and_the_look_up_is_not_overlooked() -> None:
    first = at(["a"], offset=0)
    stored: Stored = {}
    judge = judge_of(stored)

    def look_up(_keys: list[bytes]) -> Stored:
        judge.forget([1])  # its rows have come just too late for this answer
        return {}

    judge.judge(first, seq=1)
    judge._look_up = look_up
    assert not judge.judge(at(["a"], offset=1), seq=2).any()


def test_judged_again_after_a_crash_a_first_copy_is_still_the_first() -> None:
    batch, later = at(["a", "b"], offset=5), at(["a"], offset=9)
    assert judge_of(places(batch)).judge(batch, seq=1).all()
    assert judge_of(places(later)).judge(batch, seq=1).all(), "a later copy says nothing"
    assert not judge_of(places(batch)).judge(later, seq=2).any()


def test_within_one_message_the_place_in_it_decides() -> None:
    batch = at(["a", "a"], offset=5)
    assert judge_of(places(batch.take(np.array([0])))).judge(batch, seq=1).tolist() == [True, False]


@pytest.mark.parametrize(("days", "counts"), [(35, False), (35.01, True)])
def test_an_identity_is_free_again_after_the_window(days: float, counts: bool) -> None:
    first, again = at(["a"], offset=0), at(["a"], offset=1, days=days)
    assert judge_of(places(first)).judge(again, seq=1).all() == counts
    judge = judge_of({})
    judge.judge(first, seq=1)
    assert judge.judge(again, seq=2).all() == counts
    both, _ = decode(
        [
            message([Sent(id="a")]),
            message([Sent(id="a")], offset=1, appended_at_ms=APPENDED_AT_MS + int(days * DAY_MS)),
        ],
        partitions=1,
    )
    assert both is not None
    assert judge_of({}).judge(both, seq=1).tolist() == [True, counts]


def test_the_filter_never_denies_what_it_knows_also_after_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup_module, "MIN_FILTER_WORDS", 1 << 10)
    known = IdentityFilter()
    random_source = np.random.default_rng(1)
    added = random_source.integers(0, 1 << 63, (20_000, 2), dtype=np.uint64)
    for part in np.split(added, 20):
        known.add(part)
    assert known.suspects(added).all()
    strangers = random_source.integers(0, 1 << 63, (20_000, 2), dtype=np.uint64)
    assert known.suspects(strangers).mean() < 0.002


def test_a_judgement_does_not_depend_on_other_tenants() -> None:
    events = columns([Sent(id="a"), Sent(id="a", tenant_no=2), Sent(id="a", source="s")])
    assert judge_of({}).judge(events, seq=1).all()
