"""The connection to Temporal."""

import stamina
from temporalio.client import Client
from temporalio.service import RPCError

from infra.settings import Settings

CONNECT_SECONDS = 30  # how long a starting process waits for a server that starts beside it


@stamina.retry(on=(RuntimeError, RPCError), timeout=CONNECT_SECONDS, attempts=None)
async def connect(settings: Settings) -> Client:
    """A client of the server and namespace in the settings.

    Raises RuntimeError or temporalio.service.RPCError when nothing answers within CONNECT_SECONDS.
    """
    return await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
