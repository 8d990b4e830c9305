"""The size of a stream's next message, over links that take the first bytes at once and then move at their own speed."""

import pytest

from wardround.learn.grpc_wire import BUFFERED, CHUNK, STRIDE_FIRST, STRIDE_MIN, Stride

BUFFER = 512 * 1024


def longest_message_s(bytes_s, total, attempt=0):
    """Send `total` bytes over such a link; the longest that one message was on its way behind those before, and the last size."""
    now = 0.0
    stride = Stride(attempt=attempt, clock=lambda: now)
    sent, longest = 0, 0.0
    while sent < total:
        size = stride.size
        sent += size
        now = max(now, (sent - BUFFER) / bytes_s)  # a write returns once the buffer has room
        longest = max(longest, size / bytes_s)
        stride.passed(size)
    return longest, stride.size


@pytest.mark.parametrize("bytes_s", [5_000, 20_000, 60_000, 1_000_000, 100_000_000])
def test_no_message_takes_as_long_as_the_patience_with_an_upload(bytes_s):
    longest, _ = longest_message_s(bytes_s, 8 * BUFFERED)
    assert longest < 27.0


def test_a_fast_link_carries_large_messages_soon():
    now = 0.0
    stride = Stride(clock=lambda: now)
    for _ in range(BUFFERED // STRIDE_FIRST + 2):
        now += stride.size / 50e6
        stride.passed(stride.size)
    assert stride.size == CHUNK


def test_who_was_interrupted_begins_with_less():
    assert [Stride(attempt=n).size for n in (0, 1, 2)] == [STRIDE_FIRST, STRIDE_FIRST // 2, STRIDE_FIRST // 4]
    assert Stride(attempt=19).size == STRIDE_MIN
