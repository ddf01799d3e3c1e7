"""Asks a ClickHouse server a real question."""

from urllib.parse import urlsplit

import clickhouse_connect


def probe(address: str, timeout_seconds: float) -> str:
    """The server's version, e.g. `26.9.2.1`. `address` is a URL; its database need not exist yet.

    Raises clickhouse_connect.driver.exceptions.Error when it does not answer in time.
    """
    server = urlsplit(address)._replace(path="/default").geturl()
    client = clickhouse_connect.get_client(
        dsn=server, connect_timeout=timeout_seconds, send_receive_timeout=timeout_seconds, query_retries=0
    )
    try:
        return str(client.command("SELECT version()"))
    finally:
        client.close()
