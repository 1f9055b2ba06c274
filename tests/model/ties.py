"""When two greedy generations of one prompt count as the same: up to near-ties, which rounding decides.

llama.cpp adds up attention in 16 bits, in the order in which a sequence's cells happen to lie in the KV cache, and in
several parts where the cache is large and one row is decoded alone. Who else was in the cache decides where the cells
lie. The sums are equally right, but not equal to the last bit, and the model's 8-bit activations amplify that: with
the cells of one sequence in a random order, log probabilities of SmolLM2 135M Q4_1 differed by 0.1 (root mean square)
and by 0.7 at most, as much as with flash attention and without; and the most likely token changed where the two
candidates were less than 0.5 apart. So where two tokens are that close, another run may pick the other one, and from
there on write another text; that is no cross-talk and no error of the prefix cache.

A wrong prefix or a neighbour's token looks different: it is a token that the model, asked alone, finds much less
likely. So `assert_greedy` follows the tokens that were generated, and asks the model alone about each: it must be the
model's own choice, or one that is nearly as likely. After a near-tie it asks anew, so that the rest is proven as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace import GenerationResult, Model, Token, TokenStream

__all__ = ["NEAR", "assert_greedy", "read"]

# Natural logarithm: twice the largest gap that rounding was seen to turn round.
NEAR = 1.0
_CANDIDATES = 8


def read(stream: TokenStream) -> tuple[list[Token], GenerationResult]:
    """All tokens of a stream, and its result."""
    tokens = list(stream)
    return tokens, stream.result()


def assert_greedy(model: Model, prompt: Sequence[int], ids: Sequence[int], **settings: object) -> int:
    """Prove that a generation is the greedy one of this prompt, near-ties excepted.

    Args:
        model: with nothing else to do, so that it runs the prompt alone.
        prompt: token ids.
        ids: what was generated.
        settings: those of the generation that change what is generated.

    Returns:
        How many near-ties there were.
    """
    ties = at = 0
    while at < len(ids):
        alone, _ = read(
            model.generate_stream(
                [*prompt, *ids[:at]],
                temperature=0,
                max_tokens=len(ids) - at,
                logprobs=_CANDIDATES,
                timeout_ms=0,
                **settings,
            )
        )
        same = next((i for i, token in enumerate(alone) if token.id != ids[at + i]), len(alone))
        at += same
        if same == len(alone):
            assert at == len(ids), f"alone, the model ends after {at} tokens"
            break
        choice = alone[same]
        assert choice.top_logprobs is not None
        candidates = {candidate.id: candidate.logprob for candidate in choice.top_logprobs}
        given = model.detokenize([ids[at]])
        assert ids[at] in candidates, f"token {at} is {given!r}; alone, the model would not think of it"
        gap = candidates[choice.id] - candidates[ids[at]]
        assert 0 <= gap < NEAR, f"token {at} is {given!r}; alone it is {choice.text!r}, likelier by {gap:.2f}"
        ties += 1
        at += 1
    return ties
