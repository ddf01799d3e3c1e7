"""Messages of workflows: what starts them and what their activities pass. Ids, counts and RFC 3339 instants only, so
that every payload is small, and the default JSON converter carries it exactly."""

from dataclasses import dataclass, field

BILLING_TASK_QUEUE = "meterline-billing"
METERS_TASK_QUEUE = "meterline-meters"  # apart, so that a long build holds up no invoice

WEBHOOKS_TASK_QUEUE = "meterline-webhooks"  # apart, so that slow receivers hold up no invoice either
FAILING_WEBHOOKS_TASK_QUEUE = "meterline-webhooks-failing"  # apart again: dead endpoints hold up only each other

#: Names, by which whoever starts a workflow or an activity calls it.
BILLING_SWEEP = "billing_sweep"
LOAD_DUE_PAGE = "load_due_page"
BILL_CHUNK = "bill_chunk"  # of any kind of due work; its first kind gave it the name

#: Kinds of due work.
BILLS = "bills"
WALLETS = "wallets"
DRAFTS = "drafts"
THRESHOLDS = "thresholds"
DUNNING = "dunning"
COLLECTIONS = "collections"
REFUNDS = "refunds"
LATE_CHECKS = "late_checks"

ADVANCE_CLOCK = "advance_clock"
STEP_CLOCK = "step_clock"

BUILD_METER = "build_meter"
WAIT_FOR_FLOWS = "wait_for_flows"
COUNT_PAST = "count_past"
SWITCH_READERS = "switch_readers"
PROVE_METERS = "prove_meters"
PROVE_PAGE = "prove_page"

DELIVER_WEBHOOKS = "deliver_webhooks"
DELIVER_CHUNK = "deliver_chunk"
CHECK_INVARIANTS = "check_invariants"
CHECK_INVARIANTS_PAGE = "check_invariants_page"

# Stored histories are replayed by the numbers of this block: who changes one asks `workflow.patched` in the workflow
# whether a run began by the new one, or workflows that run meanwhile fail as nondeterministic.
CHUNKS_A_PAGE = 50  # and so activities in flight
IDS_A_PAGE = 10_000  # and at least one chunk; an id is 36 bytes, so 400 kB of payload, where Temporal takes 2 MB
PAGES_A_RUN = 20  # then the sweep goes on as a new run, with a short history
DELIVERY_CHUNKS_A_RUN = 100  # of an endpoint; the same
STEPS_A_RUN = 100  # of a clock; the same


@dataclass(frozen=True, kw_only=True)
class SweepTotals:
    """What a sweep has done so far. `done` counts other work than bills; `waiting` was due and can't be done yet."""

    invoices: int = 0
    statements: int = 0
    done: int = 0
    parked: int = 0
    waiting: int = 0
    failed_chunks: int = 0


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """`now` empty: the instant the run starts. `after_at`, `after_id`: go on beyond this place of the due list."""

    kind: str = BILLS
    now: str = ""
    after_at: str = ""
    after_id: str = ""
    totals: SweepTotals = field(default_factory=SweepTotals)


@dataclass(frozen=True, kw_only=True)
class DuePageRequest:
    now: str
    after_at: str
    after_id: str
    kind: str = BILLS


@dataclass(frozen=True, kw_only=True)
class DuePage:
    """Ids of what is due, cut in chunks. `after_id` empty: there is no further page."""

    chunks: list[list[str]]
    after_at: str
    after_id: str


@dataclass(frozen=True, kw_only=True)
class ChunkRequest:
    now: str
    ids: list[str]
    kind: str = BILLS


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """`statements` counts the steps saved, those without an invoice too; `done`, what was done of other kinds."""

    invoices: int = 0
    statements: int = 0
    done: int = 0
    parked: int = 0
    waiting: int = 0


@dataclass(frozen=True, kw_only=True)
class ClockRequest:
    """A test clock with something to do. `since`: every event acknowledged before this instant of real time is counted
    first; empty: the instant the run starts."""

    clock_id: str
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class ClockStep:
    """How far a clock has come: `done`, `more`, or `waiting` for what can't be done yet."""

    progress: str


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A revision of a meter that waits to be built."""

    meter_id: str
    revision: int


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a build counts: each shard, with the last batch of it. `superseded`: the build is wanted no more."""

    seqs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    superseded: bool = False


@dataclass(frozen=True, kw_only=True)
class CountRequest:
    meter_id: str
    revision: int
    past: Past


@dataclass(frozen=True, kw_only=True)
class ProofRequest:
    """Prove the meters whose numbers are beyond `after_no`."""

    after_no: int = 0


@dataclass(frozen=True, kw_only=True)
class ProofPage:
    """What a page of proofs found. `after_no` 0: there is no further page."""

    proven: int = 0
    drifted: int = 0
    after_no: int = 0


@dataclass(frozen=True, kw_only=True)
class InvariantPlace:
    """How far a check of invariants is. `of` empty: at its beginning, where `since` (empty: all there is is looked at)
    and `begun_at` are not known yet. `checked` objects so far; `broken`: breaches that were not known before, and at
    the end all that stand."""

    of: str = ""
    after: str = ""
    since: str = ""
    begun_at: str = ""
    checked: int = 0
    broken: int = 0
    is_done: bool = False


@dataclass(frozen=True, kw_only=True)
class Built:
    """How a build ended."""

    counted_events: int = 0
    superseded: bool = False


@dataclass(frozen=True, kw_only=True)
class DeliveryRequest:
    """An endpoint with deliveries that are due. `is_failing`: it is served among those that fail."""

    endpoint_id: str
    is_failing: bool = False


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What an activity, or a run, did of an endpoint's deliveries. `more`: others are due already."""

    succeeded: int = 0
    failed: int = 0
    more: bool = False
