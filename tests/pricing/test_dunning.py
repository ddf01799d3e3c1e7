"""When an unpaid invoice is retried, reminded of and given up."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pricing.dunning import DAY, LAST_CHANCE, DunningStep, blocks_at, next_step
from schemas.invoicing import OVERDUE_AFTER, Dunning, FinalStep

DUE = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = st.lists(st.integers(1, 40), max_size=5, unique=True).map(lambda days: tuple(sorted(days)))


def run(dunning: Dunning, looks: list[datetime]) -> list[tuple[datetime, DunningStep]]:
    """Look at an invoice at the first of these instants at or after each step's own, up to the last step."""
    steps: list[tuple[datetime, DunningStep]] = []
    next_at: datetime | None = DUE + OVERDUE_AFTER
    day = 0
    for now in looks:
        if next_at is not None and next_at <= now:
            step = next_step(dunning, due_at=DUE, day=day, now=now, is_first=not steps)
            steps.append((now, step))
            day, next_at = step.day, step.next_at
    return steps


@given(
    retries=DAYS,
    reminders=DAYS,
    beyond=st.integers(1, 40),
    final=st.sampled_from(FinalStep),
    hours=st.lists(st.integers(0, 3000), max_size=60),
)
def test_whenever_it_is_looked_at_no_step_comes_twice_or_early_and_the_final_one_comes_last_and_alone(
    retries: tuple[int, ...], reminders: tuple[int, ...], beyond: int, final: FinalStep, hours: list[int]
) -> None:
    final_days = max([*retries, *reminders, 1]) + beyond
    dunning = Dunning(retry_days=retries, reminder_days=reminders, final=final, final_days=final_days)
    looks = [DUE + timedelta(hours=each) for each in sorted(hours)] + [DUE + DAY * day for day in (400, 401, 402)]
    steps = run(dunning, looks)
    behind = 0
    for now, step in steps:
        new = [day for day in range(behind + 1, step.day + 1) if DUE + DAY * day <= now]
        assert step.is_retry == any(day in retries for day in new)
        assert step.is_reminder == any(day in reminders for day in new)
        behind = step.day
    assert behind >= max([*retries, *reminders, 1])
    ends = [now for now, step in steps if step.is_final]
    assert len(ends) == (final is not FinalStep.KEEP)
    assert steps[-1][1].next_at is None
    for end in ends:
        assert end == steps[-1][0]
        assert end >= DUE + DAY * final_days
        assert end >= steps[-2][0] + LAST_CHANCE


def test_a_schedule_that_is_kept_to_takes_each_step_on_its_day() -> None:
    dunning = Dunning(retry_days=(1, 3), reminder_days=(3, 7), final=FinalStep.CANCEL, final_days=10)
    steps = run(dunning, [DUE + timedelta(hours=hour) for hour in range(24 * 20)])
    assert [((now - DUE).days, step.is_retry, step.is_reminder, step.is_final) for now, step in steps] == [
        (1, True, False, False),
        (3, True, True, False),
        (7, False, True, False),
        (10, False, False, True),
    ]


def test_features_are_refused_from_the_day_that_is_named_or_never() -> None:
    assert blocks_at(Dunning(), DUE) is None
    assert blocks_at(Dunning(block_days=7), DUE) == DUE + DAY * 7
