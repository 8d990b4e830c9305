"""The first message of a stream of bytes: what is in it comes out, and what is none is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.learn.frames import FrameMalformed, frame, unframe
from wardround.wire import wardround_pb2 as pb

HEAD = pb.UpdateHead(study="sepsis", round=3, size=9, offset=4, metrics={"loss": 0.5})


@given(data=st.binary(max_size=200))
def test_head_and_bytes_come_out_as_they_went_in(data):
    head, rest = unframe(frame(HEAD, data), pb.UpdateHead)
    assert (head, bytes(rest)) == (HEAD, data)


def test_bytes_may_be_a_view_and_are_not_copied_on_arrival():
    message = frame(HEAD, memoryview(b"tensors")[2:])
    _, rest = unframe(message, pb.UpdateHead)
    assert rest.obj is message
    assert rest == b"nsors"


def test_an_empty_head_is_four_bytes():
    assert frame(pb.ModelHead(), b"x") == b"\0\0\0\0x"


@pytest.mark.parametrize("cut", range(len(frame(HEAD, b""))))
def test_a_frame_that_is_cut_within_its_head_is_refused(cut):
    with pytest.raises(FrameMalformed, match="do not hold"):
        unframe(frame(HEAD, b"")[:cut], pb.UpdateHead)


def test_a_length_beyond_the_message_is_refused():
    with pytest.raises(FrameMalformed, match="8 bytes do not hold"):
        unframe(b"\xff\xff\xff\xff" + b"data", pb.UpdateHead)


def test_a_head_that_is_no_message_of_its_kind_is_refused():
    with pytest.raises(FrameMalformed, match="no UpdateHead"):
        unframe(b"\x03\0\0\0" + b"\x0a\x7fx", pb.UpdateHead)


@given(message=st.binary(max_size=60))
def test_any_bytes_are_a_frame_or_are_refused(message):
    try:
        head, rest = unframe(message, pb.UpdateHead)
    except FrameMalformed:
        return
    assert message.endswith(bytes(rest))
    assert isinstance(head, pb.UpdateHead)
