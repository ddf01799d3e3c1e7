"""Advance a test clock to its end, in a process that tests kill: `python -m tests.support.advance_once SINCE CLOCK`."""

import sys
from datetime import UTC, datetime

from billing_workflows.clocks import Progress, advance
from schemas.instants import parse_instant
from tests.support.due_once import open_doors

MAX_ROUNDS = 20  # it waits once, for events that were ahead; here there are none


def main() -> None:
    since = parse_instant(sys.argv[1])
    with open_doors() as doors:
        for _ in range(MAX_ROUNDS):
            progress = advance(doors, sys.argv[2], since=since, read_now=lambda: datetime.now(UTC), go_on=lambda: True)
            if progress is Progress.DONE:
                return
    raise SystemExit(f"the clock has not come to its end in {MAX_ROUNDS} rounds")


if __name__ == "__main__":
    main()
