"""`python -m billing_workflows`: the Temporal worker of billing, and of building and proving meters."""

import asyncio

import structlog

from billing_workflows.worker import run_worker
from infra import metrics
from infra.arrow import forgo_pandas
from infra.settings import Settings
from infra.telemetry import configure_logging


def main() -> None:
    """Run until SIGTERM."""
    settings = Settings()
    configure_logging(settings, service="billing_workflows")
    forgo_pandas()
    try:
        metrics.serve(settings.metrics_port)
    except OSError as error:  # a flow beside it has the same setting: nobody's invoice waits for that
        structlog.get_logger().warning("metrics not served", port=settings.metrics_port, reason=str(error))
    asyncio.run(run_worker(settings))


if __name__ == "__main__":
    main()
