"""What a void or a replay decides: from the facts about an event that stand before it, and the batch's catalogue.

A fact is never edited. A change adds one of its own for each first copy it concerns, or none when nothing changes:

    void     counted, unmatched → voided, and what the event added is taken back; quarantined → voided, takes nothing
    replay   quarantined → judged anew: counted, unmatched, or quarantined for another reason

So what an event is now is its last fact, and what counts of it is the sum of all its facts by effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import structlog

from flows.attribute import attribute, judge
from flows.attributed import Attributed, Status
from flows.catalogue import Catalogue
from flows.changes import Changes
from flows.events import Events, Kind
from flows.metrics import CHANGES
from infra.clickhouse.history import Fact
from schemas.events import ChangeKind

#: An event's place in the log: partition, offset, index.
Place = tuple[int, int, int]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an event becomes by one change. `event` is the last fact about it, which says when it occurred."""

    event: Fact
    change_offset: int
    customer_no: int
    status: Status
    code: str
    effect: int


def decide(facts: Sequence[Fact], changes: Sequence[Changes], catalogue: Catalogue) -> list[Decision]:
    """The facts that the changes add, in their order. A function of its arguments alone.

    `facts` are all that stand before the changes, ordered by place and change.
    """
    latest: dict[Place, Decision] = {}
    places: dict[tuple[int, bytes], list[Place]] = {}
    for fact in facts:
        place = (fact.partition, fact.offset, fact.index)
        if place not in latest:
            places.setdefault((fact.tenant_no, fact.identity), []).append(place)
        latest[place] = _decision_of(fact)
    replayed = _judge_anew(latest, places, changes, catalogue)
    made: list[Decision] = []
    for change in changes:
        for identity in change.identities:
            for place in places.get((change.tenant_no, identity), ()):
                decision = _change(latest[place], change, replayed.get(place))
                if decision is not None:
                    latest[place] = decision
                    made.append(decision)
    return made


def _decision_of(fact: Fact) -> Decision:
    return Decision(
        event=fact,
        change_offset=fact.change_offset,
        customer_no=fact.customer_no,
        status=Status[fact.status.upper()],
        code=fact.code,
        effect=fact.effect,
    )


@dataclass(frozen=True, slots=True)
class _Judgement:
    customer_no: int
    status: Status
    code: str
    occurred_at: int  # one that came without a time may have got that of its customer's test clock


def _judge_anew(
    latest: Mapping[Place, Decision],
    places: Mapping[tuple[int, bytes], list[Place]],
    changes: Sequence[Changes],
    catalogue: Catalogue,
) -> dict[Place, _Judgement]:
    """What this catalogue says of every quarantined event that some change replays."""
    wanted = dict.fromkeys(
        place
        for change in changes
        if change.kind is ChangeKind.REPLAY
        for identity in change.identities
        for place in places.get((change.tenant_no, identity), ())
        if latest[place].status is Status.QUARANTINED
    )
    if not wanted:
        return {}
    judged = attribute(events_of([latest[place].event for place in wanted]), catalogue)
    return {
        place: _Judgement(
            int(judged.customers[row]),
            Status(int(judged.status[row])),
            judged.codes.get(row, ""),
            int(judged.events.occurred_at[row]),
        )
        for row, place in enumerate(wanted)
    }


def _change(now: Decision, change: Changes, judgement: _Judgement | None) -> Decision | None:
    """What the event becomes; None: it stays what it is."""
    if change.kind is ChangeKind.VOID:
        if now.status is Status.VOIDED:
            return None
        counts = now.status is not Status.QUARANTINED
        became = _Judgement(now.customer_no, Status.VOIDED, "", now.event.occurred_at)
        effect = -1 if counts else 0
    else:
        if now.status is not Status.QUARANTINED or judgement is None:
            return None
        became = judgement
        effect = 0 if judgement.status is Status.QUARANTINED else 1
        if effect == 0 and judgement.code == now.code:
            return None
    return Decision(
        event=replace(now.event, occurred_at=became.occurred_at),
        change_offset=change.offset,
        customer_no=became.customer_no,
        status=became.status,
        code=became.code,
        effect=effect,
    )


def report_changes(changes: Sequence[Changes], facts: Sequence[Fact], decisions: Sequence[Decision]) -> None:
    """Count what became of events, and what is not there to be changed."""
    known = {(fact.tenant_no, fact.identity) for fact in facts}
    wanted = {(change.tenant_no, identity) for change in changes for identity in change.identities}
    for decision in decisions:
        CHANGES.labels(decision.status.name.lower()).inc()
    if unknown := wanted - known:
        CHANGES.labels("unknown").inc(len(unknown))
        log.debug("no such events to change", count=len(unknown))


def attribute_decisions(decisions: Sequence[Decision], catalogue: Catalogue) -> Attributed:
    """The decisions as judged events, with what every meter of the catalogue takes or gives back by them."""
    events = events_of([decision.event for decision in decisions])
    customers = np.array([decision.customer_no for decision in decisions], np.uint64)
    effects = np.array([decision.effect for decision in decisions], np.int8)
    # What has no effect is shown to no meter: to them it is an unknown customer's.
    judged = judge(events, np.where(effects == 0, np.uint64(0), customers), catalogue.meters, decided=True)
    judged.customers = customers
    judged.effects = effects
    judged.change_offsets = np.array([decision.change_offset for decision in decisions], np.int64)
    judged.status = np.array([decision.status for decision in decisions], np.int8)
    judged.codes = {row: decision.code for row, decision in enumerate(decisions) if decision.code}
    return judged


def events_of(facts: Sequence[Fact]) -> Events:
    """The events that facts are about, as columns; at least one."""
    kinds: dict[Kind, int] = {}
    codes = [kinds.setdefault((fact.tenant_no, fact.type), len(kinds)) for fact in facts]
    return Events(
        tenants=np.array([fact.tenant_no for fact in facts], np.uint32),
        words=np.frombuffer(b"".join(fact.identity for fact in facts), "<u8").reshape(-1, 2),
        partitions=np.array([fact.partition for fact in facts], np.uint16),
        offsets=np.array([fact.offset for fact in facts], np.int64),
        indexes=np.array([fact.index for fact in facts], np.uint32),
        received_at=np.array([fact.received_at for fact in facts], np.int64),
        occurred_at=np.array([fact.occurred_at for fact in facts], np.int64),
        untimed=np.array([fact.untimed for fact in facts], np.bool_),
        kinds=list(kinds),
        kind_codes=np.array(codes, np.int64),
        sources=pa.array([fact.source for fact in facts], pa.string()),
        ids=pa.array([fact.id for fact in facts], pa.string()),
        subjects=pa.array([fact.subject for fact in facts], pa.string()),
        data=pa.array([fact.data for fact in facts], pa.string()),
        extensions=pa.array([fact.extensions for fact in facts], pa.string()),
    )
