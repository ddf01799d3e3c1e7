"""Whatever is sent, good events are taken, and both ways of decoding say the same."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.intake import columns, decode
from infra.intake.columns import MIN_VECTORIZED
from infra.intake.decode import Form
from schemas.errors import Malformed, MeterlineError
from tests.support.bodies import GOOD, GOOD_TIMES, array, event, ids, read

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
