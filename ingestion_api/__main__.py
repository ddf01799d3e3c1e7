"""`python -m ingestion_api`: the API service, one process. SIGTERM and SIGINT end it after the answers under way."""

import asyncio
import gc
import signal

import uvloop
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from infra.settings import Settings
from infra.telemetry import configure_logging
from ingestion_api.asgi import create_app

BACKLOG = 1024
GC_THRESHOLD = 20_000  # containers made, not freed, between two looks of the collector


async def serve(settings: Settings) -> None:
    """Serve until a signal comes. The server lives in this process: nothing is left behind when it is killed."""
    app = create_app(settings)
    # What stands now stays: the collector need not look at it again and again beneath the traffic.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    server = Server(
        app,
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.ASGI,
        backlog=BACKLOG,
        http1_settings=HTTP1Settings(),
        log_level=LogLevels.error,
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        app.stop_streams()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()


def main() -> None:
    settings = Settings()
    configure_logging(settings, service="api")
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
