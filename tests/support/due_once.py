"""Do what is due of a kind once, in a process that tests kill: `python -m tests.support.due_once KIND NOW ID…`."""

import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import timedelta

from billing_workflows.doors import Doors
from billing_workflows.due import run_chunk
from infra.clickhouse.client import connect
from infra.postgres.due import Moment
from infra.postgres.pool import Database
from infra.settings import Settings
from schemas.instants import parse_instant


@contextmanager
def open_doors() -> Generator[Doors]:
    """The doors of the settings in the environment, without grace."""
    settings = Settings()
    with closing(Database(settings.postgres_dsn, max_connections=1)) as database:
        yield Doors(
            database=database,
            clickhouse=connect(settings.clickhouse_url),
            grace=timedelta(0),
            chunk_size=100,
            events_topic=settings.events_topic,
            events_partitions=settings.events_partitions,
        )


def main() -> None:
    with open_doors() as doors:
        run_chunk(doors, sys.argv[1], sys.argv[3:], Moment(now=parse_instant(sys.argv[2])))


if __name__ == "__main__":
    main()
