"""The common prefix of two token lists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.kv.radix import common_prefix

TOKENS = st.lists(st.integers(1, 2), min_size=1, max_size=12)


@given(TOKENS, TOKENS, st.integers(0, 12), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_common_prefix(a: list[int], b: list[int], limit: int, a_start: int, b_start: int) -> None:
    count = 0
    while count < limit and a[a_start + count : a_start + count + 1] == b[b_start + count : b_start + count + 1] != []:
        count += 1
    assert common_prefix(a, b, limit, a_start, b_start) == count


@pytest.mark.parametrize("difference", [0, 1, 255, 256, 257, 700, 1000])
def test_common_prefix_of_long_sequences(difference: int) -> None:
    a = [1] * 1000
    b = [1] * difference + [2] * (1000 - difference)
    assert common_prefix(a, b, 1000) == difference
