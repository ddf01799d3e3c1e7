"""Bodies of HTTP requests as plain bytes, piece by piece, whatever their framing and compression."""

import zlib
from collections.abc import Callable, Iterator
from email.message import Message
from io import BufferedIOBase
from typing import Protocol

import lz4.frame
import zstandard

PIECE_BYTES = 1024 * 1024
MAX_CHUNK_LINE_BYTES = 1024
MAX_DRAIN_BYTES = 256 * 1024 * 1024

BAD_ARGUMENTS = 36
CANNOT_READ_ALL_DATA = 33
CANNOT_DECOMPRESS = 271
UNKNOWN_COMPRESSION_METHOD = 89


class BodyError(Exception):
    """The body can't be read. `code` is ClickHouse's for the same trouble."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool | None: ...
    @property
    def unused_data(self) -> bytes | bytearray | None: ...
    def decompress(self, data: bytes, /) -> bytes: ...


#: Makes a decompressor of *one* frame; a body may hold several, one after the other.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "deflate": zlib.decompressobj,
}


class Body:
    """The body of one request, read from the connection as its pieces are taken."""

    def __init__(self, stream: BufferedIOBase, headers: Message) -> None:
        self._raw = _raw_pieces(stream, headers)
        self._encoding = (headers.get("Content-Encoding") or "identity").strip().lower()

    def pieces(self) -> Iterator[bytes]:
        """The bytes with framing and compression taken off. Raises BodyError, also for a body that is cut short."""
        if self._encoding == "identity":
            return self._raw
        if self._encoding not in _DECOMPRESSORS:
            known = ", ".join(_DECOMPRESSORS)
            raise BodyError(UNKNOWN_COMPRESSION_METHOD, f"Unknown encoding {self._encoding!r}; use one of {known}")
        return _decompressed(self._raw, _DECOMPRESSORS[self._encoding])

    def drain(self) -> bool:
        """Read what nobody took, so that the client comes to read its answer. False when that is too much."""
        left_bytes = MAX_DRAIN_BYTES
        try:
            for piece in self._raw:
                left_bytes -= len(piece)
                if left_bytes < 0:
                    return False
        except BodyError:
            return False
        return True


def _raw_pieces(body: BufferedIOBase, headers: Message) -> Iterator[bytes]:
    if (headers.get("Transfer-Encoding") or "").lower() == "chunked":
        while size := _chunk_size(body):
            yield from _exactly(body, size)
            if body.readline(MAX_CHUNK_LINE_BYTES).strip():
                raise BodyError(CANNOT_READ_ALL_DATA, "A chunk is longer than it says")
        while body.readline(MAX_CHUNK_LINE_BYTES).strip():
            pass  # trailers say nothing to us
        return
    length = headers.get("Content-Length") or "0"
    if not length.isdecimal():
        raise BodyError(BAD_ARGUMENTS, f"Content-Length {length!r} is no number")
    yield from _exactly(body, int(length))


def _chunk_size(body: BufferedIOBase) -> int:
    line = body.readline(MAX_CHUNK_LINE_BYTES)
    try:
        return int(line.split(b";", 1)[0], 16)
    except ValueError:
        raise BodyError(CANNOT_READ_ALL_DATA, f"{line[:32]!r} is no size of a chunk") from None


def _exactly(body: BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        piece = body.read(min(size, PIECE_BYTES))
        if not piece:
            raise BodyError(CANNOT_READ_ALL_DATA, f"The body ends {size} bytes early")
        size -= len(piece)
        yield piece


def _decompressed(pieces: Iterator[bytes], new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """All frames of the body, not only the first: clients send each block as a frame of its own."""
    frame = new()
    fresh = True  # nothing of this frame has been seen
    for piece in pieces:
        rest = piece
        while rest:
            try:
                plain = frame.decompress(rest)
            except (RuntimeError, zstandard.ZstdError, zlib.error) as error:
                raise BodyError(CANNOT_DECOMPRESS, f"Cannot decompress: {error}") from error
            fresh, rest = False, b""
            if plain:
                yield plain
            if frame.eof:
                rest = bytes(frame.unused_data or b"")
                frame, fresh = new(), True
    if not fresh:
        raise BodyError(CANNOT_READ_ALL_DATA, "The compressed body ends in the middle of a frame")
