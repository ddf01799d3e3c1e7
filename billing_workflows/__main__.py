"""`python -m billing_workflows`: the Temporal worker of billing."""

import asyncio

from billing_workflows.worker import run_worker
from infra.settings import Settings
from infra.telemetry import configure_logging


def main() -> None:
    """Run until SIGTERM."""
    settings = Settings()
    configure_logging(settings, service="billing_workflows")
    asyncio.run(run_worker(settings))


if __name__ == "__main__":
    main()
