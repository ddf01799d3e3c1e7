"""What a body may hold: every good form, every bad input, and good events beside bad ones."""

import json
from typing import Any

import pytest

from infra.intake import split
from infra.intake.columns import MIN_VECTORIZED, identify
from infra.intake.decode import Decoded, Form
from infra.intake.event import MAX_DATA_DEPTH
from schemas.errors import Malformed, TooLarge
from schemas.events import MAX_EVENT_BYTES, MAX_EVENTS_A_REQUEST
from schemas.instants import parse_instant, to_micros
from tests.support.bodies import GOOD, GOOD_TIMES, NOW, array, event, ids, read, text_of

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
    (event(time="2200-01-01T00:00:00Z"), "event.time_in_future"),
    (event(time="0000-01-01T00:00:00Z"), "event.invalid_time"),
    (event(time="9999-12-31T23:59:59Z"), "event.time_in_future"),
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
    assert decoded.events.data.items() == [stored or text_of(data)] * count


def test_a_long_number_spoils_not_the_id_of_its_rejection() -> None:
    [rejection] = read(text_of(event(data={"x": 10**4100}))).rejections
    assert (rejection.id, rejection.code) == ("good", "event.invalid_data")


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
