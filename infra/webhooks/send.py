"""One POST to somebody else's server: to the very address that was judged, within a limit of time and of size.

The name is looked up once, every address found is judged, and the connection goes to one of these: a second look-up
could give another answer. Redirects are not followed and no proxy is asked.
"""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore2
import httpx2

from infra.webhooks.addresses import is_public, parse_url, resolve
from schemas.errors import Reject

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0  # for everything, from the connection to the end of the answer
MAX_BODY_BYTES = 4096  # of an answer that is read and kept
MAX_ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status_code` None: none came, for the reason in `error`. `body` is its beginning, as text."""

    status_code: int | None
    error: str | None
    body: str
    latency_ms: int

    @property
    def is_success(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def post(url: str, headers: Mapping[str, str], body: str, *, allow_private: bool) -> Answer:
    """Send it. Never raises for what the other side does, or for an address that is not allowed: that is `error`."""
    started = time.monotonic()
    status_code, error, read = None, None, bytearray()
    try:
        target = parse_url(url)
        backend = CheckedBackend(started + ANSWER_SECONDS, allow_private=allow_private)
        with (
            httpcore2.ConnectionPool(ssl_context=_ssl_context(), network_backend=backend, retries=0) as pool,
            pool.stream(
                "POST",
                httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
                headers=[("host", target.netloc), ("content-length", str(len(body.encode()))), *headers.items()],
                content=body.encode(),
                extensions={"timeout": {"connect": CONNECT_SECONDS, "read": ANSWER_SECONDS, "write": ANSWER_SECONDS}},
            ) as response,
        ):
            status_code = response.status
            for piece in response.iter_stream():
                read += piece
                if len(read) >= MAX_BODY_BYTES:
                    break
    except (httpcore2.TimeoutException, TimeoutError):
        error = f"no whole answer within {ANSWER_SECONDS:.0f} seconds"
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, UnicodeError, Reject) as failure:
        error = _said(failure)
    return Answer(
        status_code=status_code if error is None else None,
        error=error,
        body=bytes(read[:MAX_BODY_BYTES]).decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"),
        latency_ms=int((time.monotonic() - started) * 1000),
    )


def _said(failure: Exception) -> str:
    text = failure.detail if isinstance(failure, Reject) else f"{type(failure).__name__}: {failure}"
    return text.replace("\0", "")[:MAX_ERROR_LENGTH]


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


class CheckedBackend(httpcore2.NetworkBackend):
    """Connects to addresses that may be reached, and gives each connection one deadline (of `time.monotonic`)."""

    def __init__(self, deadline: float, *, allow_private: bool) -> None:
        self._deadline = deadline
        self._allow_private = allow_private
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = resolve(host.strip("[]"), port)
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise httpcore2.ConnectError("the address is not public: webhooks do not go there")
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for address in addresses:
            try:
                stream = self._plain.connect_tcp(
                    address, port, _left(self._deadline, timeout), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return DeadlineStream(stream, self._deadline)
        raise failure


class DeadlineStream(httpcore2.NetworkStream):
    """A connection on which no wait passes the deadline: an answer that comes drop by drop ends too."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline, timeout))
        return DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    """Seconds that may still pass. Raises TimeoutError when none are left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(left, timeout)
