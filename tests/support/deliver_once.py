"""Deliver what is due of an endpoint, in a process that tests kill: `python -m tests.support.deliver_once ENDPOINT`."""

import sys
from contextlib import closing
from datetime import UTC, datetime

from billing_workflows.deliveries import DeliveryDoors, deliver_chunk
from infra.postgres.pool import Database
from infra.settings import Settings
from schemas.workflows import DeliveryRequest

MAX_CHUNKS = 100


def main() -> None:
    with closing(Database(Settings().postgres_dsn, max_connections=1)) as database:
        doors = DeliveryDoors(database=database, clock=lambda: datetime.now(UTC), allow_private=True)
        for _ in range(MAX_CHUNKS):
            if not deliver_chunk(doors, DeliveryRequest(endpoint_id=sys.argv[1]), stopping=lambda: False).more:
                return
    raise SystemExit(f"something is due after {MAX_CHUNKS} chunks")


if __name__ == "__main__":
    main()
