"""What a body may hold: every good form, every bad input, and good events beside bad ones."""

import gzip
import json
import random
import zlib
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from infra.intake import columns, decode, split
from infra.intake.columns import MIN_VECTORIZED, identify
from infra.intake.decode import Decoded, Form
from infra.intake.event import MAX_DATA_DEPTH
from ingestion_api.ingest.body import unpack
from ingestion_api.ingest.media import binary_to_json, form_of
from schemas.errors import Malformed, MeterlineError, TooLarge, UnsupportedMediaType
from schemas.events import MAX_EVENT_BYTES, MAX_EVENTS_A_REQUEST, MAX_REQUEST_BYTES
from schemas.instants import parse_instant, to_micros

NOW = to_micros(parse_instant("2026-01-31T12:00:00Z"))
GOOD = {"id": "good", "type": "t", "subject": "s", "time": "2026-01-01T00:00:00Z", "data": {"a": 1}}


def event(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | fields).items() if value is not ...}


def text_of(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def array(*events: Any) -> bytes:
    return b"[" + b",".join(text_of(each) for each in events) + b"]"


def read(body: bytes, form: Form = Form.JSON) -> Decoded:
    return decode.decode(body, form, NOW)


def ids(decoded: Decoded) -> list[str]:
    return [each.decode() for each in decoded.events.ids] if decoded.events else []


#: Of an event of GOOD's names: json.dumps of its data, and the default source.
BYTES_AROUND = len('{"x": ""}') + len("goodtsapi")

BAD: list[tuple[Any, str]] = [
    (event(id=...), "event.missing_field"),
    (event(type=...), "event.missing_field"),
    (event(subject=...), "event.missing_field"),
    (event(subject=None), "event.missing_field"),
    ({}, "event.missing_field"),
    (event(id=""), "event.invalid_field"),
    (event(id=5), "event.invalid_field"),
    (event(id="x" * 513), "event.invalid_field"),
    (event(id="a\0b"), "event.invalid_field"),
    (event(subject="a\nb"), "event.invalid_field"),
    (event(type="a\x7f"), "event.invalid_field"),
    (event(source="\x85"), "event.invalid_field"),
    (event(source=""), "event.invalid_field"),
    (event(id="\ud800"), "event.invalid_field"),
    (event(subject="x\udc00"), "event.invalid_field"),
    (event(specversion="0.3"), "event.invalid_field"),
    (event(specversion=1.0), "event.invalid_field"),
    (event(datacontenttype=5), "event.invalid_field"),
    (event(customerId="x"), "event.invalid_field"),
    (event(traceparent={}), "event.invalid_field"),
    (event(**{f"e{n}": 1 for n in range(40)}), "event.invalid_field"),
    (5, "event.invalid_field"),
    (None, "event.invalid_field"),
    ("text", "event.invalid_field"),
    ([], "event.invalid_field"),
    (b'{"id":' + b"1" * 401 + b',"type":"t","subject":"s"}', "event.invalid_field"),
    (b'{"id":"g\xff","type":"t","subject":"s"}', "event.invalid_data"),
    (event(data=5), "event.invalid_data"),
    (event(data=[1]), "event.invalid_data"),
    (event(data={"x": 10**4000}), "event.invalid_data"),
    (event(data={"pad": "x" * 3001, "x": [1, -(10**4200)]}), "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":0.' + b"3" * 5000 + b"}}", "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":' + b"9" * 5000 + b"}}", "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","ext":' + b"9" * 5000 + b"}", "event.invalid_field"),
    (event(data='{"a":1}'), "event.invalid_data"),
    (event(data={"x": "\ud800"}), "event.invalid_data"),
    (event(data={"\udfff": 1}), "event.invalid_data"),
    (event(data=..., data_base64="!!"), "event.invalid_data"),
    (event(data=..., data_base64="NQ=="), "event.invalid_data"),
    (event(data_base64="e30="), "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":"\xff"}}', "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":NaN}}', "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":01}}', "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":1,}}', "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":' + b"[" * 64 + b"]" * 64 + b"}}", "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":{"x":' + b"[" * 9999 + b"]" * 9999 + b"}}", "event.invalid_data"),
    (b'{"id":"g","type":"t","subject":"s","data":' + b'{"a":' * 9999 + b"1" + b"}" * 10000, "event.invalid_data"),
    (event(time=""), "event.invalid_time"),
    (event(time=5), "event.invalid_time"),
    (event(time="yesterday"), "event.invalid_time"),
    (event(time="2026-01-01"), "event.invalid_time"),
    (event(time="2026-01-01T00:00:00"), "event.invalid_time"),
    (event(time="2026-01-01T00:00Z"), "event.invalid_time"),
    (event(time="2026-01-01T00Z"), "event.invalid_time"),
    (event(time="2026-02-30T00:00:00Z"), "event.invalid_time"),
    (event(time="2026-01-01T24:00:00Z"), "event.invalid_time"),
    (event(time="2026-01-01T00:00:60Z"), "event.invalid_time"),
    (event(time="2026-01-01T00:00:00+0200"), "event.invalid_time"),
    (event(time="2026-W01-1T00:00:00Z"), "event.invalid_time"),
    (event(time="20260101T000000.0000Z"), "event.invalid_time"),
    (event(time=" 2026-01-01T00:00:00Z"), "event.invalid_time"),
    (event(time="2026-01-01T00:00:00Z "), "event.invalid_time"),
    (event(time="1899-12-31T23:59:59.999999Z"), "event.invalid_time"),
    (event(time="2200-01-01T00:00:00Z"), "event.invalid_time"),
    (event(time="0000-01-01T00:00:00Z"), "event.invalid_time"),
    (event(time="9999-12-31T23:59:59-23:59"), "event.invalid_time"),
    (event(time="2026-01-31T12:05:00.000001Z"), "event.time_in_future"),
    (event(time="2099-01-01T00:00:00Z"), "event.time_in_future"),
    (event(data={"x": "y" * MAX_EVENT_BYTES}), "event.too_large"),
    (event(data={"x": "y" * (MAX_EVENT_BYTES - BYTES_AROUND + 1)}), "event.too_large"),
    (event(long="y" * MAX_EVENT_BYTES), "event.too_large"),
    (event(data={"x": "y" * 400_000}), "event.too_large"),
]


@pytest.mark.parametrize("neighbours", [1, MIN_VECTORIZED])
@pytest.mark.parametrize(("bad", "code"), BAD)
def test_a_bad_event_is_rejected_alone_and_says_why(bad: Any, code: str, neighbours: int) -> None:
    before = [event(id=f"b{n}") for n in range(neighbours)]
    decoded = read(array(*before, bad, event(id="after")))
    assert ids(decoded) == [*(each["id"] for each in before), "after"]
    assert [(rejection.index, rejection.code) for rejection in decoded.rejections] == [(neighbours, code)]
    lines = b"\n".join([*(text_of(each) for each in before), text_of(bad), text_of(event(id="after"))])
    assert ids(read(lines, Form.LINES)) == ids(decoded)


GOOD_DATA = {
    "null": (None, b"{}"),
    "as many digits as are read": ({"x": 10**3999}, None),
    "digits in a string": ({"x": "9" * 9000, '"': "\\"}, None),
    "exactly 64 KiB": ({"x": "y" * (MAX_EVENT_BYTES - BYTES_AROUND)}, None),
}


@pytest.mark.parametrize("count", [1, 2, MIN_VECTORIZED + 1])
@pytest.mark.parametrize("name", GOOD_DATA)
def test_data_at_its_limits_is_taken_as_it_came(name: str, count: int) -> None:
    data, stored = GOOD_DATA[name]
    decoded = read(array(*[event(data=data)] * count))
    assert decoded.rejections == []
    assert decoded.events is not None
    assert decoded.events.data == [stored or text_of(data)] * count


def test_a_long_number_spoils_not_the_id_of_its_rejection() -> None:
    [rejection] = read(text_of(event(data={"x": 10**4100}))).rejections
    assert (rejection.id, rejection.code) == ("good", "event.invalid_data")


GOOD_TIMES = [
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456789Z",
    "2026-01-01t00:00:00z", "2026-01-01 00:00:00Z", "2026-01-01T02:00:00+02:00", "2025-12-31T18:30:00.5-05:30",
    "1900-01-01T00:00:00Z", "2026-01-31T12:05:00Z", "1969-12-31T23:59:59.999999Z", "2024-02-29T23:59:59Z",
]  # fmt: skip


@pytest.mark.parametrize("count", [1, MIN_VECTORIZED + 1])
@pytest.mark.parametrize("time", GOOD_TIMES)
def test_a_time_is_read_to_the_microsecond(time: str, count: int) -> None:
    decoded = read(array(*(event(id=f"{n}", time=time) for n in range(count))))
    assert decoded.rejections == []
    assert decoded.events is not None
    assert decoded.events.times.tolist() == [to_micros(parse_instant(time))] * count


@pytest.mark.parametrize("count", [1, MIN_VECTORIZED + 1])
def test_an_event_without_time_takes_that_of_its_receipt(count: int) -> None:
    events = [event(id=f"{n}", time=... if n % 3 == 0 else GOOD["time"]) for n in range(count)]
    decoded = read(array(*events))
    assert decoded.events is not None
    assert decoded.events.untimed == list(range(0, count, 3))
    assert [decoded.events.times.tolist()[n] for n in decoded.events.untimed] == [NOW] * len(decoded.events.untimed)
    assert read(array(event(time=None))).rejections == []


GOOD_EVENTS = [
    event(data=...),
    event(source="urn:ä"),
    event(source=None),
    event(specversion="1.0", datacontenttype="application/json", dataschema="https://x"),
    event(id="x" * 512, subject="ü" * 512),
    event(id="non\u00a0breaking"),
    event(data={"x": "\ud83d\ude00", "y": "\x00 \n"}),
    event(data={"x": "y" * 60_000}),
    event(data=json.loads("[" * (MAX_DATA_DEPTH - 1) + "]" * (MAX_DATA_DEPTH - 1)), id="deep"),
    event(data=..., data_base64="eyJhIjogMX0="),
    b'{"id":"g","id":"good","type":"t","subject":"s","data":{"a":1,"a":2}}',
    b'{"id":"good","type":"t","subject":"s","data":{"a":1e999999,"b":' + b"9" * 4000 + b"}}",
    b' { "id" : "good" , "type":"t", "subject":"s", "data" :  {"a": 1} }\n',
]
GOOD_EVENTS[8] = b'{"id":"good","type":"t","subject":"s","data":{"x":' + b"[" * 63 + b"]" * 63 + b"}}"


@pytest.mark.parametrize("good", GOOD_EVENTS)
def test_an_unusual_good_event_is_accepted_by_both_paths(good: Any) -> None:
    alone = read(text_of(good))
    among = read(array(*([GOOD] * MIN_VECTORIZED), good, event(id=...)))
    assert alone.rejections == []
    assert [rejection.code for rejection in among.rejections] == ["event.missing_field"]
    assert ids(among)[-1] == ids(alone)[0]


def test_extension_attributes_are_kept_with_their_event() -> None:
    decoded = read(array(GOOD, event(reservation="rsv_1", priority=2, flag=True, nothing=None)))
    assert decoded.events is not None
    assert list(decoded.events.extensions) == [1]
    assert json.loads(decoded.events.extensions[1]) == {"reservation": "rsv_1", "priority": 2, "flag": True}


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", Form.JSON), (b" \n", Form.JSON), (b"5", Form.JSON), (b'"x"', Form.JSON), (b"null", Form.JSON),
        (b"{", Form.JSON), (b"[", Form.JSON), (b"[{}", Form.JSON), (b"[}", Form.JSON), (b"[]]", Form.JSON),
        (b"[{}]x", Form.JSON), (b'[{"a":"x]', Form.JSON), (b"[{},]", Form.JSON), (b"[,{}]", Form.JSON),
        (b"\xff\xfe[\x00]\x00", Form.JSON), (b"{'id': 1}", Form.JSON), (b"[nope]", Form.JSON), (b"[{]}", Form.JSON),
        (b"nope\nnope", Form.LINES), (b'{"id":', Form.LINES), (b"[{}] [{}]", Form.JSON), (b'["\\', Form.JSON),
    ],
)  # fmt: skip
def test_a_body_of_which_nothing_can_be_read_is_malformed(body: bytes, form: Form) -> None:
    with pytest.raises(Malformed) as refused:
        read(body, form)
    assert refused.value.code == "request.invalid_json"


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    assert ids(read(b"\xef\xbb\xbf" + array(GOOD))) == ["good"]
    assert ids(read(b"\xef\xbb\xbf" + array(GOOD, 5))) == ["good"]


def test_lines_may_be_blank_and_end_as_they_like() -> None:
    body = b"\n\r\n" + text_of(GOOD) + b"\r\n\n " + text_of(event(id="2")) + b"\n\nnope\n" + text_of(event(id="3"))
    decoded = read(body, Form.LINES)
    assert ids(decoded) == ["good", "2", "3"]
    assert [rejection.index for rejection in decoded.rejections] == [2]


@pytest.mark.parametrize("body", [b"[]", b" [ ] "])
def test_an_empty_array_holds_no_events(body: bytes) -> None:
    assert read(body) == Decoded(None, [])


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("bad", [b"", text_of({}), b"5"])
def test_ten_thousand_events_are_the_most(form: Form, bad: bytes) -> None:
    def body(count: int) -> bytes:
        texts = [bad] * bool(bad) + [text_of(GOOD)] * (count - bool(bad))
        return b"\n".join(texts) if form is Form.LINES else b"[" + b",".join(texts) + b"]"

    decoded = read(body(MAX_EVENTS_A_REQUEST), form)
    assert len(ids(decoded)) + len(decoded.rejections) == MAX_EVENTS_A_REQUEST
    with pytest.raises(TooLarge):
        read(body(MAX_EVENTS_A_REQUEST + 1), form)


def test_millions_of_elements_are_counted_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_COMMAS_OF_FAST_SPLIT", 1_000)
    with pytest.raises(TooLarge):
        read(b"[" + b"1," * 20_000 + b"1]")


def test_copies_inside_a_request_are_counted_and_kept() -> None:
    events = [event(id=f"{n % 40}", source="a" if n % 2 else "b") for n in range(60)]
    decoded = read(array(*events))
    assert decoded.events is not None
    assert identify(decoded.events, 1) == 20
    assert len(decoded.events) == 60


def test_the_same_id_of_two_sources_is_two_events() -> None:
    decoded = read(array(event(source="a"), event(source="b")))
    assert decoded.events is not None
    assert identify(decoded.events, 1) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
odd_texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["\ud800", "\0", "x" * 600, "1.0", "é", "\x85", *GOOD_TIMES]),
)  # fmt: skip
odd_events = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("id", "type", "subject", "source", "time", "specversion", "traceid"), odd_texts)
        | {"data": json_values, "data_base64": odd_texts, "id2": json_values},
    ),
    st.fixed_dictionaries({"id": odd_texts, "type": st.just("t"), "subject": odd_texts, "time": odd_texts}),
)


@given(st.binary(max_size=200), st.sampled_from(Form))
def test_no_bytes_give_anything_but_our_own_errors(body: bytes, form: Form) -> None:
    for candidate in (body, b"[" + body + b"]", b'[{"id":"' + body + b'"}]', array(GOOD) + body):
        try:
            read(candidate, form)
        except MeterlineError:
            continue


@given(st.lists(odd_events, max_size=4), st.randoms(use_true_random=False))
def test_good_events_are_accepted_whatever_stands_beside_them(odd: list[Any], rng: random.Random) -> None:
    good = [event(id=f"good-{n}") for n in range(3)]
    sent = [*good, *odd]
    rng.shuffle(sent)
    decoded = read(array(*sent))
    assert {each["id"] for each in good} <= set(ids(decoded))
    assert len(ids(decoded)) + len(decoded.rejections) == len(sent)
    rejected = {rejection.index for rejection in decoded.rejections}
    assert [n for n, each in enumerate(sent) if each in good and n in rejected] == []


@given(odd_events)
def test_both_paths_say_the_same_of_an_event(odd: Any) -> None:
    try:
        alone = read(array(odd))
    except Malformed:
        alone = None
    many = read(array(*([GOOD] * (MIN_VECTORIZED + 5)), odd))
    slow = read(array(*([GOOD] * (MIN_VECTORIZED + 5)), odd, {}))
    assert [rejection.code for rejection in slow.rejections[:-1]] == [rejection.code for rejection in many.rejections]
    assert ids(slow) == ids(many)
    if alone is not None:
        assert [rejection.code for rejection in alone.rejections] == [r.code for r in many.rejections]
    if many.events is not None and slow.events is not None:
        assert many.events.times.tolist() == slow.events.times.tolist()


def test_the_common_batch_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("the slow path was taken")

    monkeypatch.setattr(decode, "_decode_each", fail)
    monkeypatch.setattr(columns, "check_event", fail)
    sent = [event(id=f"{n}", data={"model": "é", "n": n / 8}, source=f"s{n % 3}") for n in range(200)]
    assert len(ids(read(array(*sent)))) == 200


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
    assert (decoded.events.subjects, decoded.events.sources) == (["ä b".encode()], ["/s"])
    assert decoded.events.data == [b'{"a": 1}']
    assert decoded.events.extensions == {0: '{"reservation":"rsv_1"}'}
    assert read(binary_to_json(headers, b"")).rejections == []


@pytest.mark.parametrize("body", [b"nope", b'{}, "id": "other"', b'"\xff"', b"[" * 5000])
def test_binary_mode_refuses_a_body_that_is_no_json(body: bytes) -> None:
    with pytest.raises(Malformed):
        binary_to_json({"ce-id": "1"}, body)
    with pytest.raises(Malformed):
        binary_to_json({"ce-subject": "%ff"}, b"{}")
