"""The workflow of an endpoint with deliveries that are due: chunk after chunk until none is.

One run an endpoint at a time, since its id is the endpoint's: a slow receiver holds up itself. PostgreSQL is the truth
about what is due; a run that fails is started again by whoever looks there.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from schemas.workflows import (
        DELIVER_CHUNK,
        DELIVER_WEBHOOKS,
        DELIVERY_CHUNKS_A_RUN,
        Delivered,
        DeliveryRequest,
    )

CHUNK_TIMEOUT = timedelta(minutes=5)
CHUNK_HEARTBEAT = timedelta(seconds=10)  # a worker that died is noticed after this
RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20), maximum_attempts=5)


@workflow.defn(name=DELIVER_WEBHOOKS)
class WebhookDelivery:
    """What is due of one endpoint. The result counts attempts of this run."""

    @workflow.run
    async def run(self, request: DeliveryRequest) -> Delivered:
        succeeded = failed = 0
        for _ in range(DELIVERY_CHUNKS_A_RUN):
            done = await workflow.execute_activity(
                DELIVER_CHUNK,
                request,
                result_type=Delivered,
                start_to_close_timeout=CHUNK_TIMEOUT,
                heartbeat_timeout=CHUNK_HEARTBEAT,
                retry_policy=RETRIES,
            )
            succeeded, failed = succeeded + done.succeeded, failed + done.failed
            if not done.more:
                return Delivered(succeeded=succeeded, failed=failed)
        return workflow.continue_as_new(request)
