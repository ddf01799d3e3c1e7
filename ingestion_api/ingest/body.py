"""The body of a raw request: read, unpacked and bounded while it comes."""

import asyncio
import io
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import zstandard

from schemas.errors import Malformed, TimedOut, TooLarge, UnsupportedMediaType
from schemas.events import MAX_REQUEST_BYTES

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

GZIP_WINDOW = 31  # zlib's way to say: a gzip header, any window
READ_BYTES = 256 * 1024
BODY_SECONDS = 30  # a whole body takes no longer: whoever sends less than 16 MiB in it may split
SWEEP_SECONDS = 0.5  # how much later than that it may be noticed
MAX_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024  # what RFC 9659 asks of Content-Encoding: zstd


class Disconnected(Exception):
    """The client went away before its request was complete; nobody waits for an answer."""


def too_large() -> TooLarge:
    return TooLarge("request.too_large", f"A request holds at most {MAX_REQUEST_BYTES} bytes, unpacked; split it.")


def timed_out() -> TimedOut:
    return TimedOut("request.timeout", f"The body did not come within {BODY_SECONDS} seconds; send less, or faster.")


class BodyReader:
    """Reads bodies, each within BODY_SECONDS, with one timer for all: one a body would cost more than its reading."""

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Task[Any], float] = {}  # in the order they fall due: all have the same limit
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receive, announced_bytes: int, grow_to: Callable[[int], None]) -> bytes:
        """The body as it was sent. `grow_to` is told how many bytes are here, never how many were announced: an
        announcement costs its sender nothing.

        Raises TooLarge as soon as it is, TimedOut, Disconnected when the body never ends, and whatever `grow_to`
        raises.
        """
        if announced_bytes > MAX_REQUEST_BYTES:
            raise too_large()
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._deadlines[task] = loop.time() + BODY_SECONDS
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)
        try:
            return await _receive_all(receive, announced_bytes, grow_to)
        except asyncio.CancelledError:
            if task in self._deadlines:  # another's wish, not `_sweep`
                raise
            task.uncancel()
            raise timed_out() from None
        finally:
            self._deadlines.pop(task, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, due_at in list(self._deadlines.items()):
            if due_at > now:
                break
            del self._deadlines[task]
            task.cancel()
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._deadlines else None


async def _receive_all(receive: Receive, announced_bytes: int, grow_to: Callable[[int], None]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            raise too_large()
        grow_to(size)
        parts.append(part)
        # Once all that was announced is there, the server would only say so once more, and a wake-up later.
        if size == announced_bytes > 0 or not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def unpack(body: bytes, content_encoding: str) -> bytes:
    """The body without its content coding; never holds more than the limit and a little.

    Raises TooLarge, Malformed (`request.invalid_encoding`), UnsupportedMediaType for a coding it does not know.
    """
    match content_encoding:
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body)
        case "zstd":
            return _unzstd(body)
        case _:
            raise UnsupportedMediaType(
                "request.unsupported_media_type", "Content-Encoding may be gzip, zstd or identity."
            )


def _gunzip(body: bytes) -> bytes:
    parts: list[bytes] = []
    room = MAX_REQUEST_BYTES + 1
    while body:  # a gzip file is one member or several
        member = zlib.decompressobj(GZIP_WINDOW)
        try:
            part = member.decompress(body, room)
        except zlib.error as error:
            raise _broken("gzip", error) from None
        parts.append(part)
        room -= len(part)
        if room <= 0:
            raise too_large()
        if not member.eof:
            raise _broken("gzip", "it ends too early")
        body = member.unused_data
    return b"".join(parts)


def _unzstd(body: bytes) -> bytes:
    """In two passes: the reader that can be bounded does not see that a frame ends too early."""
    try:
        reader = _zstd().stream_reader(io.BytesIO(body), read_across_frames=True)
        room = MAX_REQUEST_BYTES
        while part := reader.read(READ_BYTES):
            room -= len(part)
            if room < 0:
                raise too_large()
        parts: list[bytes] = []
        while body:  # one frame or several
            frame = _zstd().decompressobj()
            parts.append(frame.decompress(body))
            if not frame.eof:
                raise _broken("zstd", "it ends too early")
            body = frame.unused_data
    except zstandard.ZstdError as error:
        raise _broken("zstd", error) from None
    return b"".join(parts)


def _zstd() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)


def _broken(coding: str, reason: object) -> Malformed:
    return Malformed("request.invalid_encoding", f"The body is no complete {coding}: {reason}")
