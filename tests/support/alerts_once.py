"""Look at the alerts that are due once, in a process that tests kill: `python -m tests.support.alerts_once NOW`."""

import sys

from billing_workflows.alerts import look_at_alerts
from infra.settings import Settings
from schemas.instants import parse_instant
from tests.support.due_once import open_doors


def main() -> None:
    with open_doors() as doors:
        while look_at_alerts(doors, shards=Settings().flow_shards, now=parse_instant(sys.argv[1])):
            pass


if __name__ == "__main__":
    main()
