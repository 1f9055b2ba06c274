"""The yardstick itself: it must not pass what is wrong."""

from __future__ import annotations

import pytest

from headrace import Model

from .ties import assert_greedy, read


def test_it_passes_what_is_greedy_and_nothing_else(empty_model: Model) -> None:
    model = empty_model  # in a used memory a near-tie may fall the other way
    prompt, other = model.tokenize("The capital of Italy is"), model.tokenize("def add(a, b):\n    return")
    own = [token.id for token in read(model.generate_stream(prompt, max_tokens=10, ignore_eos=True))[0]]
    foreign = [token.id for token in read(model.generate_stream(other, max_tokens=10, ignore_eos=True))[0]]
    assert assert_greedy(model, prompt, own, ignore_eos=True) == 0
    for wrong in (foreign, own[1:], [*own[:5], *foreign[5:]], [*own[:5], *own[6:]]):
        with pytest.raises(AssertionError, match="alone"):
            assert_greedy(model, prompt, wrong, ignore_eos=True)
