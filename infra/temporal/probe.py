"""Asks a Temporal server a real question."""

import asyncio
from datetime import timedelta

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
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
