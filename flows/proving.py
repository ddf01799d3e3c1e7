"""Proving meters: which, how much of each, and what is done with the findings.

The workflow `billing_workflows.meter_proofs` proves all meters by a schedule; `python -m flows.proving` on demand, as
`meterline doctor --proof` runs it: one JSON object on standard output, exit status 1 where a meter has drifted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import Counter, Gauge

from flows.proof import Proof, prove_meter
from flows.retired import remove_retired
from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.clickhouse.past import Selection
from infra.postgres.billing import load_stored_seqs
from infra.postgres.meter_proofs import (
    Finding,
    ProofKind,
    Provable,
    count_drifted,
    find_provable,
    load_provable,
    record,
)
from infra.postgres.pool import Database
from infra.settings import Settings

METERS_A_PAGE = 50

PROOFS = Counter("meterline_meter_proofs", "Proofs of meters' windows, by outcome.", ["outcome"])  # proven, drifted
DRIFTED = Gauge("meterline_meters_drifted", "Meters in use whose windows have drifted and are not yet proven again.")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofDoors:
    """What proofs speak to. `full_after`: the age of a full proof that makes the next one full again."""

    database: Database
    clickhouse: Client
    full_after: timedelta
    repairs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """One meter, proven. `kind`: of what came since the proof before, or of all."""

    provable: Provable
    kind: ProofKind
    proof: Proof
    repairing: bool


def prove_page(
    doors: ProofDoors, *, after_no: int, now: datetime, beat: Callable[[], None]
) -> tuple[list[Proven], int | None]:
    """Prove the meters beyond `after_no`, as many as a page has; the number to go on from, None at the end.

    After the last page, when all findings are kept, windows that nobody reads any more are removed.
    """
    with doors.database.transaction() as connection:
        page = load_provable(connection, after_no=after_no, limit=METERS_A_PAGE)
    proven = [found for each in page if (found := prove(doors, each, full=False, now=now, beat=beat)) is not None]
    with doors.database.transaction() as connection:
        DRIFTED.set(count_drifted(connection))
    if len(page) == METERS_A_PAGE:
        return proven, page[-1].meter.meter_no
    remove_retired(doors.database, doors.clickhouse, now=now)
    return proven, None


def prove(
    doors: ProofDoors, provable: Provable, *, full: bool, now: datetime, beat: Callable[[], None]
) -> Proven | None:
    """Prove one meter, keep what was found, and begin its repair; None when readers left the revision meanwhile."""
    with doors.database.transaction() as connection:
        seqs = load_stored_seqs(connection)
    is_full = full or provable.recent_seqs is None or provable.full_at is None
    is_full = is_full or (provable.full_at is not None and now - provable.full_at >= doors.full_after)
    kind = ProofKind.FULL if is_full else ProofKind.RECENT
    selection = Selection(
        tenant_no=provable.tenant_no,
        event_type=provable.meter.event_type,
        seqs=seqs,
        after={} if is_full else provable.recent_seqs or {},
    )
    proof = prove_meter(doors.clickhouse, meter=provable.meter, selection=selection, beat=beat)
    finding = Finding(
        kind=kind,
        seqs=seqs,
        events=proof.events,
        windows=proof.windows,
        drifted=proof.drifted,
        examples=proof.examples,
    )
    with doors.database.transaction() as connection:
        repairing = record(connection, provable, finding, repair=doors.repairs, now=now)
    if repairing is None:
        return None
    PROOFS.labels("proven" if proof.ok else "drifted").inc()
    if not proof.ok or repairing:
        log.error(
            "the windows of a meter have drifted",
            meter=provable.meter_id,
            revision=provable.meter.revision,
            drifted=proof.drifted,
            examples=proof.examples,
            repairing=repairing,
        )
    return Proven(provable=provable, kind=kind, proof=proof, repairing=repairing)


def prove_all(doors: ProofDoors, *, meter: str | None, now: datetime) -> list[Proven]:
    """Prove all meters in full, or those with this key or id."""
    proven: list[Proven] = []
    after_no = 0
    while True:
        with doors.database.transaction() as connection:
            if meter is not None:
                page = find_provable(connection, reference=meter, limit=METERS_A_PAGE)
            else:
                page = load_provable(connection, after_no=after_no, limit=METERS_A_PAGE)
        found = (prove(doors, each, full=True, now=now, beat=lambda: None) for each in page)
        proven += [each for each in found if each is not None]
        if meter is not None or len(page) < METERS_A_PAGE:
            return proven
        after_no = page[-1].meter.meter_no


def to_json(proven: Sequence[Proven]) -> dict[str, object]:
    """What `meterline doctor --proof --json` prints."""
    return {
        "ok": all(each.proof.ok for each in proven),
        "meters": [
            {
                "id": each.provable.meter_id,
                "key": each.provable.key,
                "tenant": each.provable.tenant_id,
                "revision": each.provable.meter.revision,
                "events": each.proof.events,
                "windows": each.proof.windows,
                "drifted": each.proof.drifted,
                "examples": each.proof.examples,
                "repairing": each.repairing,
                "ok": each.proof.ok,
            }
            for each in proven
        ],
    }


def main(arguments: Sequence[str]) -> int:
    """Prove on demand; 1 where a meter has drifted."""
    parser = argparse.ArgumentParser(prog="python -m flows.proving")
    parser.add_argument("--meter", help="its key or id; all meters when not given")
    options = parser.parse_args(arguments)
    settings = Settings()
    with (
        closing(Database(settings.postgres_dsn, max_connections=2)) as database,
        closing(connect_clickhouse(settings.clickhouse_url)) as clickhouse,
    ):
        doors = ProofDoors(
            database=database, clickhouse=clickhouse, full_after=timedelta(0), repairs=settings.proof_repairs
        )
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        found = to_json(prove_all(doors, meter=options.meter, now=datetime.now(UTC)))
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
