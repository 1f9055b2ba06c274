"""Decides which sequences try guesses of their next tokens in a step, and how many: as many as pay in time.

A guess is verified by computing it along with the token before it: where sampling arrives at the same token, the next
one can be sampled in the same step. What is sampled stays what it would have been, since each token is drawn from its
own distribution behind the tokens before it; a guess only decides whether that distribution is there already. (For a
guess without a distribution of its own that is what speculative sampling comes down to; Leviathan et al., 2023.)
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from headrace.engine.lookup import Lookup
from headrace.engine.sequence import Sequence

__all__ = ["MAX_DRAFTS", "Speculation"]

# Guessed tokens in a step at most, of all sequences together.
MAX_DRAFTS = 15
# How much faster the step's streams must get, all together, for guesses to be tried: estimates err, and to be wrong
# costs those who wait for this step.
_MARGIN = 1.05


class Speculation:
    """Weighs what guesses may gain against what they cost.

    Args:
        decode_time: seconds that a step with so many rows of logits takes; 0.0 where that is not known.
        max_length: longest sequence, in tokens.
    """

    def __init__(self, decode_time: Callable[[int], float], max_length: int) -> None:
        self._decode_time = decode_time
        self._max_length = max_length

    def plan(self, sequences: SequenceOf[Sequence], room: int) -> dict[int, list[int]]:
        """What to guess in a step in which all of these sequences decode.

        Args:
            sequences: each computes one token.
            room: tokens that the step can take besides.

        Returns:
            The guessed tokens, by place in `sequences`; of those that guess nothing there is no entry.
        """
        room = min(room, MAX_DRAFTS)
        if not self._can_pay(len(sequences), room):
            return {}
        chances: list[tuple[float, int]] = []
        for place, sequence in enumerate(sequences):
            most = min(room, sequence.num_guessable(self._max_length))
            if most > 0:
                lookup = sequence.lookup
                if lookup is None:
                    lookup = sequence.lookup = Lookup(sequence.tokens)
                lookup.catch_up()
                chances += [(chance, place) for chance in lookup.chances(most)]
        if not chances:
            return {}
        # A guess is at most as likely as the one before it in its sequence, and the sort keeps the order of equals. So
        # the likeliest ones are always the first few of each sequence.
        chances.sort(key=_by_chance, reverse=True)
        counts: dict[int, int] = {}
        for _, place in chances[: self._best_count(len(sequences), [chance for chance, _ in chances[:room]])]:
            counts[place] = counts.get(place, 0) + 1
        drafts: dict[int, list[int]] = {}
        for place, count in counts.items():
            lookup = sequences[place].lookup
            assert lookup is not None
            drafts[place] = lookup.propose(count)
        return drafts

    def _can_pay(self, num_sequences: int, room: int) -> bool:
        """Whether guesses would pay if all of them came true; where not, nobody needs to guess."""
        if room < 1:
            return False
        base = self._decode_time(num_sequences)
        if not base > 0:
            return False
        return any(
            (num_sequences + count) * base > _MARGIN * num_sequences * self._decode_time(num_sequences + count)
            for count in (room, (room + 1) // 2)
        )

    def _best_count(self, num_sequences: int, chances: SequenceOf[float]) -> int:
        """How many guesses make the most tokens per second, likeliest first; 0 where none of them pay."""
        best = _MARGIN * num_sequences / self._decode_time(num_sequences)
        best_count = 0
        expected = float(num_sequences)
        for count, chance in enumerate(chances, 1):
            expected += chance
            speed = expected / self._decode_time(num_sequences + count)
            if speed > best:
                best, best_count = speed, count
        return best_count


def _by_chance(entry: tuple[float, int]) -> float:
    return entry[0]
