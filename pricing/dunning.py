"""What is done about an invoice that is not paid, and when. Pure: the schedule, what is behind it and `now` decide."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.invoicing import Dunning, FinalStep

DAY = timedelta(days=1)
#: The final step comes at least this long after the last retry or reminder, also when these came late.
LAST_CHANCE = DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningStep:
    """What is to be done at a look at an invoice. `day`: what the schedule says up to it is behind the invoice
    afterwards. `next_at` None: it is not looked at again."""

    day: int
    is_retry: bool
    is_reminder: bool
    is_final: bool
    next_at: datetime | None


def next_step(dunning: Dunning, *, due_at: datetime, day: int, now: datetime, is_first: bool = False) -> DunningStep:
    """What is due at `now` of an invoice that is open still, when all up to `day` is behind it.

    Of several retries that are late one is made, and of several reminders one is told. The final step is taken at a
    look of its own, never at one that retries or reminds, or at the first.
    """
    passed = max((now - due_at) // DAY, day)
    is_retry = any(day < each <= passed for each in dunning.retry_days)
    is_reminder = any(day < each <= passed for each in dunning.reminder_days)
    final_day = None if dunning.final is FinalStep.KEEP else dunning.final_days
    is_late = final_day is not None and day < final_day <= passed
    is_final = is_late and not (is_retry or is_reminder or is_first)
    if final_day is not None and not is_final and day < final_day:
        passed = min(passed, final_day - 1)
    return DunningStep(
        day=passed,
        is_retry=is_retry,
        is_reminder=is_reminder,
        is_final=is_final,
        next_at=None if is_final else _next(dunning, due_at, passed, now),
    )


def _next(dunning: Dunning, due_at: datetime, day: int, now: datetime) -> datetime | None:
    """When the first step after `day` is due; late ones have been done, but for the final one."""
    days = [each for each in (*dunning.retry_days, *dunning.reminder_days) if each > day]
    if days:
        return due_at + DAY * min(days)
    if dunning.final is FinalStep.KEEP or dunning.final_days <= day:
        return None
    return max(due_at + DAY * dunning.final_days, now + LAST_CHANCE)


def blocks_at(dunning: Dunning, due_at: datetime) -> datetime | None:
    """From when on an invoice that is overdue keeps its subscription's features from being used; None: it does not."""
    return None if dunning.block_days is None else due_at + DAY * dunning.block_days
