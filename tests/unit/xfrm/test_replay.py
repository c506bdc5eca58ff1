"""The replay window against the plainest description of it: a set of numbers (RFC 4303 3.4.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrm.esp import Replayed, ReplayWindow

steps = st.one_of(st.integers(-80, 80), st.integers(-5000, 5000), st.just(0xFFFF_0000))


@given(size=st.sampled_from([1, 32, 64, 2048]), moves=st.lists(steps, max_size=200))
def test_accepts_each_number_once_and_none_left_of_the_window(size: int, moves: list[int]) -> None:
    window = ReplayWindow(size)
    seen: set[int] = set()
    for move in moves:
        sequence = min(max(window.highest + move, 0), 0xFFFF_FFFF)
        fresh = sequence not in seen and sequence > max(seen, default=0) - size and sequence > 0
        if fresh:
            window.check(sequence)
            window.advance(sequence)
            seen.add(sequence)
        else:
            with pytest.raises(Replayed):
                window.check(sequence)
    assert window.seen.bit_length() <= size
