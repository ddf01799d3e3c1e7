"""Events that came before their subject count by themselves once it is there."""

import signal
import threading

import pytest

from flows import replay as replay_module
from flows.replay import publish_replays
from infra.clickhouse import history
from infra.clickhouse.history import QuarantineFilter, quarantined_pages
from infra.kafka.changes import ChangeLog
from infra.kafka.event_log import identity_hash
from infra.postgres.replays import VersionRange, replayable_versions
from schemas.events import ChangeKind
from tests.support.usage_log import WAIT_SECONDS, Sent, UsageLog, meter, wait_for


@pytest.fixture(scope="module", autouse=True)
def customers(log: UsageLog) -> None:
    log.customers({"acme": 1})


def statuses(log: UsageLog, prefix: str) -> dict[str, int]:
    """How many events of these ids are in each state now."""
    found: dict[str, int] = {}
    for event_id, (status, _, _) in log.events().items():
        if event_id.startswith(prefix):
            found[status] = found.get(status, 0) + 1
    return found


def replayed_all(log: UsageLog) -> bool:
    """Whether the catalogue's head has been replayed."""
    row = log.postgres.execute("SELECT replayed_version = version AS all FROM catalogue_head").fetchone()
    assert row is not None
    return row["all"]


def test_events_count_once_their_subject_is_there_while_the_flow_runs(log: UsageLog) -> None:
    log.meters(meter(30, event_type="early"))
    with log.flow() as flow:
        log.send([Sent(id=f"early-{n}", type="early", subject=f"sub-{n % 7}", data={"tokens": n}) for n in range(50)])
        log.send([Sent(id="early-bad", type="early", subject="sub-1", data={"tokens": "many"})])
        log.send([Sent(id="early-other", tenant_no=2, type="early", subject="sub-1", data={"tokens": 1})])
        log.wait_stored(flow)
        assert statuses(log, "early") == {"quarantined": 52}
        log.customers({f"sub-{n}": 30 + n for n in range(6)})

        def counted() -> bool:
            flow.raise_failure()
            return statuses(log, "early").get("counted") == 43

        wait_for(counted, "the events of six subjects are counted")
    assert statuses(log, "early") == {"counted": 43, "quarantined": 9}
    events = log.events()
    assert events["early-bad"] == ("quarantined", "event.invalid_value", 31)
    assert events["early-other"] == ("quarantined", "event.unknown_subject", 0)
    assert events["early-8"] == ("counted", "", 31)
    counts = {key[1]: value for key, value in log.usage().items() if key[0] == 30}
    assert counts[31] == (7, sum(range(1, 50, 7)))


def test_a_version_waits_for_every_shard_and_for_what_was_judged_before_it(log: UsageLog) -> None:
    with log.flow() as flow:
        wait_for(lambda: (flow.raise_failure(), replayed_all(log))[1], "the head is replayed")
        version = log.customers({"waits": 40})
        wait_for(lambda: (flow.raise_failure(), replayed_all(log))[1], "the new version is replayed")
    assert replayable_versions(log.postgres, shards=1) is None
    log.postgres.execute("UPDATE catalogue_head SET replayed_version = %s", (version - 2,))
    try:
        assert replayable_versions(log.postgres, shards=1) == VersionRange(after=version - 2, up_to=version)
        assert replayable_versions(log.postgres, shards=2) is None, "a shard of the layout has never run"
        log.postgres.execute(
            "INSERT INTO intents (shard, seq, ranges, catalogue_version, state, created_at)"
            " VALUES (0, 1000000, '[[1, 0, 0]]', %s, 'pending', now())",
            (version - 1,),
        )
        assert replayable_versions(log.postgres, shards=1) == VersionRange(after=version - 2, up_to=version - 1)
    finally:
        log.postgres.execute("DELETE FROM intents WHERE seq = 1000000")


@pytest.mark.parametrize("point", ["replay.page_published", "replay.published"])
def test_a_kill_between_two_lines_of_the_replay_counts_each_event_once(log: UsageLog, point: str) -> None:
    meter_no = 31 if point == "replay.published" else 32
    kind = f"kill-{meter_no}"
    log.meters(meter(meter_no, event_type=kind))
    log.send([Sent(id=f"{kind}-{n}", type=kind, subject=f"late-{point}", data={"tokens": 1}) for n in range(30)])
    with log.flow() as flow:
        log.wait_stored(flow)
    log.customers({f"late-{point}": meter_no})
    killed = log.start_flow(crash_at=point)
    assert killed.wait(WAIT_SECONDS) == -signal.SIGKILL, killed.logged()
    with log.flow() as flow:
        wait_for(lambda: (flow.raise_failure(), replayed_all(log))[1], "the version is replayed")
        log.wait_stored(flow)
    assert statuses(log, kind) == {"counted": 30}
    assert [value for key, value in log.usage().items() if key[0] == meter_no] == [(30, 30)]


def test_thousands_of_subjects_and_events_come_in_pages(log: UsageLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "SUBJECTS_A_QUERY", 700)
    monkeypatch.setattr(history, "QUARANTINED_PAGE", 400)
    subjects = [f"page-{n}" for n in range(2000)]
    log.send([Sent(id=f"{subject}/{n}", subject=subject) for subject in subjects for n in range(2)])
    with log.flow() as flow:
        log.wait_stored(flow)
        log.customers({subject: 100_000 + n for n, subject in enumerate(subjects)})

        def all_are_known() -> bool:
            flow.raise_failure()
            rows = log.clickhouse.query(
                "SELECT count() FROM event_changes FINAL WHERE customer_no >= 100000"
            ).result_rows
            return rows[0][0] == len(subjects) * 2

        wait_for(all_are_known, "every event of every subject is replayed")
        log.wait_stored(flow)
    pages = list(quarantined_pages(log.clickhouse, QuarantineFilter(tenant_no=1, code="event.unknown_subject")))
    left = {identity for page in pages for identity in page}
    assert not left & {identity_hash(1, "api", f"{subject}/0") for subject in subjects}


def test_quarantined_events_are_found_by_code_time_and_subject_until_they_are_resolved(log: UsageLog) -> None:
    log.meters(meter(33, event_type="found"))
    bad = Sent(id="found-bad", type="found", data={"tokens": "many"})
    who, gone = (Sent(id=f"found-{n}", type="found", subject=n, data={"tokens": 1}) for n in ("who", "gone"))
    log.send([bad, who, gone])
    log.change(ChangeKind.VOID, [gone])
    with log.flow() as flow:
        log.wait_stored(flow)

    def found(**wanted: object) -> set[str]:
        pages = quarantined_pages(log.clickhouse, QuarantineFilter(tenant_no=1, **wanted))  # pyright: ignore[reportArgumentType]
        identities = {identity for page in pages for identity in page}
        return {event.id for event in (bad, who, gone) if identity_hash(1, "api", event.id) in identities}

    assert found() == {"found-bad", "found-who"}
    assert found(code="event.invalid_value") == {"found-bad"}
    assert found(subjects=["who", "gone"]) == {"found-who"}
    assert found(start=bad.time, end=bad.time.replace(hour=13)) == {"found-bad", "found-who"}
    assert found(end=bad.time) == set()


def test_publishing_ends_when_told_to_and_nothing_is_marked(log: UsageLog) -> None:
    log.send([Sent(id="stopped", subject="stopped")])
    with log.flow() as flow:
        log.wait_stored(flow)
    version = log.customers({"stopped": 50})
    stop = threading.Event()
    stop.set()
    changes = ChangeLog(log.settings.kafka_bootstrap, log.settings.events_topic, partitions=4)
    versions = VersionRange(after=version - 1, up_to=version)
    assert not publish_replays(log.postgres, log.clickhouse, changes, versions=versions, stop=stop)
