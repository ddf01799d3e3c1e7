"""Asks a Temporal server a real question."""

import asyncio
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import Client


def probe(address: str, timeout_seconds: float, namespace: str = "default") -> str:
    """The server's version, e.g. `1.32.0`, once it also knows the namespace. `address` is host:port.

    Raises RuntimeError or temporalio.service.RPCError when it does not answer in time.
    """
    return asyncio.run(asyncio.wait_for(_probe(address, timeout_seconds, namespace), timeout_seconds))


async def _probe(address: str, timeout_seconds: float, namespace: str) -> str:
    limit = timedelta(seconds=timeout_seconds)
    client = await Client.connect(address, namespace=namespace)
    information = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=limit)
    await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace), timeout=limit)
    return information.server_version


def last_poll(address: str, timeout_seconds: float, *, namespace: str, task_queue: str) -> datetime | None:
    """When a worker last asked for a workflow's work in the queue; None when the server knows of none, which it
    forgets after some minutes. Raises like `probe`."""
    return asyncio.run(asyncio.wait_for(_last_poll(address, timeout_seconds, namespace, task_queue), timeout_seconds))


async def _last_poll(address: str, timeout_seconds: float, namespace: str, task_queue: str) -> datetime | None:
    client = await Client.connect(address, namespace=namespace)
    request = DescribeTaskQueueRequest(
        namespace=namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request, timeout=timedelta(seconds=timeout_seconds))
    polls = [poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in answer.pollers]
    return max(polls, default=None)
