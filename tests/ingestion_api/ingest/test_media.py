"""How a body may be packed, what its media type says, and events whose attributes stand in headers."""

import gzip
import zlib

import pytest
import zstandard

from infra.intake.decode import Form
from ingestion_api.ingest.body import unpack
from ingestion_api.ingest.media import binary_to_json, form_of
from schemas.errors import Malformed, TooLarge, UnsupportedMediaType
from schemas.events import MAX_REQUEST_BYTES
from tests.support.bodies import GOOD, array, read

GZIP = gzip.compress(array(GOOD))
ZSTD = zstandard.ZstdCompressor().compress(array(GOOD))


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_packed_body_is_unpacked(coding: str) -> None:
    packed = GZIP if coding == "gzip" else ZSTD
    assert unpack(packed, coding) == array(GOOD)
    assert unpack(packed + packed, coding) == array(GOOD) * 2
    assert unpack(array(GOOD), "") == array(GOOD)


@pytest.mark.parametrize(
    ("body", "coding"),
    [(GZIP[:-3], "gzip"), (b"nope", "gzip"), (GZIP + b"x", "gzip"), (ZSTD[:-3], "zstd"), (b"nope", "zstd"),
     (ZSTD + b"x", "zstd"), (zlib.compress(b"x"), "gzip")],
    ids=["gzip cut", "no gzip", "gzip and more", "zstd cut", "no zstd", "zstd and more", "zlib"],
)  # fmt: skip
def test_a_body_that_is_not_what_it_says_is_malformed(body: bytes, coding: str) -> None:
    with pytest.raises(Malformed) as refused:
        unpack(body, coding)
    assert refused.value.code == "request.invalid_encoding"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_refused_and_the_limit_itself_is_not(coding: str) -> None:
    def pack(size: int) -> bytes:
        body = bytes(size)
        return gzip.compress(body, 1) if coding == "gzip" else zstandard.ZstdCompressor().compress(body)

    assert len(unpack(pack(MAX_REQUEST_BYTES), coding)) == MAX_REQUEST_BYTES
    for bomb in (pack(MAX_REQUEST_BYTES + 1), pack(MAX_REQUEST_BYTES) + pack(1), pack(1 << 28)):
        with pytest.raises(TooLarge):
            unpack(bomb, coding)


def test_an_unknown_coding_or_type_is_unsupported() -> None:
    for coding in ("br", "gzip, gzip", "compress"):
        with pytest.raises(UnsupportedMediaType):
            unpack(b"", coding)
    for content_type in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/cloudevents+xml",
    ):
        with pytest.raises(UnsupportedMediaType):
            form_of({"content-type": content_type})
    with pytest.raises(UnsupportedMediaType):
        form_of({"content-type": "application/xml", "ce-id": "1"})


@pytest.mark.parametrize(
    ("content_type", "form"),
    [("application/json", Form.JSON), ("Application/JSON; charset=utf-8", Form.JSON), ("", Form.JSON),
     ("application/cloudevents+json", Form.JSON), ("application/cloudevents-batch+json; charset=UTF-8", Form.JSON),
     ("application/x-ndjson", Form.LINES)],
)  # fmt: skip
def test_media_types_say_how_events_stand_in_the_body(content_type: str, form: Form) -> None:
    assert form_of({"content-type": content_type}) is form


def test_binary_mode_takes_attributes_from_headers() -> None:
    headers = {
        "content-type": "application/json", "ce-specversion": "1.0", "ce-id": "good", "ce-type": "t", "ce-source": "/s",
        "ce-subject": "%C3%A4%20b", "ce-time": "2026-01-01T00:00:00Z", "ce-reservation": "rsv_1", "host": "x",
    }  # fmt: skip
    assert form_of(headers) is None
    decoded = read(binary_to_json(headers, b'{"a": 1}'))
    assert decoded.rejections == []
    assert decoded.events is not None
    assert (decoded.events.subjects.items(), decoded.events.sources.distinct) == (["ä b".encode()], ["/s"])
    assert decoded.events.data.items() == [b'{"a": 1}']
    assert decoded.events.extensions == {0: '{"reservation":"rsv_1"}'}
    assert read(binary_to_json(headers, b"")).rejections == []


@pytest.mark.parametrize("body", [b"nope", b'{}, "id": "other"', b'"\xff"', b"[" * 5000])
def test_binary_mode_refuses_a_body_that_is_no_json(body: bytes) -> None:
    with pytest.raises(Malformed):
        binary_to_json({"ce-id": "1"}, body)
    with pytest.raises(Malformed):
        binary_to_json({"ce-subject": "%ff"}, b"{}")
