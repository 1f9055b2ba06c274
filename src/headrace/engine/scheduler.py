"""Who gets a place, and what the next step computes. Policy only: it knows no backend and reads no clock."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from headrace.engine.fair_queue import FairQueue
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.radix import Row, common_prefix
from headrace.engine.runner import Slice
from headrace.engine.sequence import Sequence, State
from headrace.engine.speculation.planner import Speculation
from headrace.engine.tuning.cost import CostModel

__all__ = ["PARK_AFTER", "Part", "Scheduler", "step_shape"]

# Waiting for somebody else's prefill costs about a step; recomputing fewer tokens than this costs less.
_SHARE_AT_LEAST = 16
# A paused sequence keeps its place this long, in seconds, when others wait for one: most readers are back by then.
PARK_AFTER = 0.5
# Cells kept free per running sequence when another one is admitted, so that it is not preempted right away.
_HEADROOM = 16
# Tokens of a prompt that a step reads where its logits shall be the same whenever it is run.
_REPEATABLE_CHUNK = 32


class Part(NamedTuple):
    """What one sequence does in a step: its next `num_tokens` tokens, and a sample if these are its last.

    Guesses of what comes then may be verified with them: `drafts`. What any seeded stream that is alone would compute
    in the same way `is_repeatable`: such a one may begin with it.
    """

    sequence: Sequence
    row: Row
    num_tokens: int
    samples: bool
    drafts: SequenceOf[int] = ()
    is_repeatable: bool = False

    def slice(self) -> Slice:
        """The same for the runner."""
        sequence, tokens = self.sequence, self.sequence.uncomputed(self.num_tokens)
        sampler = sequence.sampler if self.samples else None
        return Slice(self.row.id, self.row.length, tokens, sampler, sequence.constraint, self.drafts)


def step_shape(parts: SequenceOf[Part]) -> tuple[int, int]:
    """How many tokens are decoded in a step, drafts included, and how many tokens of prompts are read."""
    num_decodes = num_prefill = 0
    for part in parts:
        if part.num_tokens == 1 and part.samples:
            num_decodes += 1 + len(part.drafts)
        else:
            num_prefill += part.num_tokens
    return num_decodes, num_prefill


class Scheduler:
    """Owns the queue, the places and the KV cache's rows. All of it belongs to the engine thread.

    Args:
        kv: the KV cache.
        cost: what steps cost.
        max_streams: sequences with a row at most.
        max_batch: tokens in a step at most.
        max_outputs: samples and drafts in a step at most.
        speculation: what may guess tokens.
        claim: makes a waiting sequence a running one; False where it has ended in the queue.
    """

    def __init__(
        self,
        kv: KVCache,
        cost: CostModel,
        *,
        max_streams: int,
        max_batch: int,
        max_outputs: int,
        speculation: Speculation,
        claim: Callable[[Sequence], bool],
    ) -> None:
        self.kv = kv
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # oldest first
        self.paused: list[Sequence] = []  # longest first
        self.num_preemptions = 0
        self._cost = cost
        self._max_streams = max_streams
        self._num_places = max_streams  # fewer after `shed`
        self._max_batch = max_batch
        self._max_outputs = min(max_outputs, max_batch)
        self._speculation = speculation
        self._claim = claim
        self._num_admitted = 0

    @property
    def num_rows(self) -> int:
        """Sequences that hold a row."""
        return len(self.running) + sum(sequence.row is not None for sequence in self.paused)

    def next_parking(self) -> float | None:
        """When somebody who waits may get the place of a paused sequence; None where that cannot come about."""
        if not len(self.waiting):
            return None
        sequence = self._longest_paused()
        return None if sequence is None else (sequence.stats.paused_since or 0.0) + PARK_AFTER

    def enqueue(self, sequence: Sequence) -> None:
        """A new sequence waits for its turn."""
        tokens = sequence.tokens
        self.waiting.push(sequence, len(tokens) - self.kv.num_reachable(tokens, len(tokens) - 1))

    def schedule(self, now: float) -> list[Part]:
        """Admit whom there is a place for, then choose what the next step computes: decodes first, then prefill."""
        self._speculation.seconds = 0.0
        self._admit(now)
        # Sharing a prefix keeps it from eviction, so it comes before room is made for the decodes.
        held_up = [sequence for sequence in self.running if sequence.num_remaining > 1 and self._is_held_up(sequence)]
        self._make_room_for_decodes()
        parts: list[Part] = []
        prefills: list[Sequence] = []
        for sequence in self.running:
            if sequence.num_remaining > 1:
                if sequence not in held_up:
                    prefills.append(sequence)
            elif sequence.row is not None:
                parts.append(Part(sequence, sequence.row, 1, samples=True))
        num_decodes = len(parts)
        if prefills:
            # Where several prompts block one another, the youngest gives way.
            while (room := self.kv.num_available - num_decodes) <= 0 and not num_decodes and self.preempt():
                prefills = [sequence for sequence in prefills if sequence.row is not None]
            chunk = min(self._chunk(prefills, num_decodes), room, self._max_batch - num_decodes)
            for sequence, count in _share(prefills, max(0, chunk)):
                if sequence.row is not None and count:
                    samples, is_repeatable = count == sequence.num_remaining, self._is_repeatable(sequence, count)
                    parts.append(Part(sequence, sequence.row, count, samples, is_repeatable=is_repeatable))
        else:  # who waits for a prompt shall not wait for guesses, too
            parts = self._with_drafts(parts)
        if not self.kv.make_room(sum(part.num_tokens + len(part.drafts) for part in parts)):
            raise AssertionError("the scheduler planned more than the KV cache holds")
        return parts

    def _chunk(self, prefills: list[Sequence], num_decodes: int) -> int:
        """Tokens of prompts that the next step reads, if there is room for them."""
        if len(self.running) == 1 and prefills[0].is_seeded:
            # What is computed together decides the last bits, so it must not depend on times that were measured.
            return _REPEATABLE_CHUNK - prefills[0].num_computed % _REPEATABLE_CHUNK
        return self._cost.chunk(num_decodes, len(prefills))

    def _is_repeatable(self, sequence: Sequence, count: int) -> bool:
        is_alone = len(self.running) == 1 and sequence.is_seeded
        return is_alone and count == _REPEATABLE_CHUNK and sequence.num_computed % _REPEATABLE_CHUNK == 0

    @property
    def draft_seconds(self) -> float:
        """What `schedule` has just spent in a smaller model that guesses."""
        return self._speculation.seconds

    def _with_drafts(self, parts: list[Part]) -> list[Part]:
        """Add guesses where they pay. They only take cells that are free: nothing is evicted for them."""
        if not parts or not self.kv.can_drop_partial:
            return parts
        room = min(self._max_outputs, self.kv.num_free) - len(parts)
        drafts = self._speculation.plan([part.sequence for part in parts], room)
        for place, tokens in drafts.items():
            parts[place] = parts[place]._replace(drafts=tokens)
        return parts

    def computed(self, part: Part, num_accepted: int = 0) -> None:
        """A step has computed a part and, behind it, so many drafts that were accepted; the others are removed."""
        tokens = list(part.sequence.uncomputed(part.num_tokens))
        if part.drafts:
            self.kv.append(part.row, [*tokens, *part.drafts[:num_accepted]], is_alone=False)
            if num_accepted < len(part.drafts):
                self.kv.roll_back(part.row)
        else:
            self.kv.append(part.row, tokens, is_alone=part.is_repeatable)
        part.sequence.has_computed = True
        part.sequence.stats.computed_tokens = part.row.length

    def pause(self, sequence: Sequence) -> None:
        """Its reader is behind: it keeps its row, but takes no part in the steps."""
        self.running.remove(sequence)
        sequence.state = State.PAUSED
        self.paused.append(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Its reader has caught up: go on, or queue for a place if it had to give its own up."""
        self.paused.remove(sequence)
        if sequence.row is None:
            self._return(sequence)
        else:
            sequence.state = State.RUNNING
            at = sum(other.order < sequence.order for other in self.running)
            self.running.insert(at, sequence)

    def remove(self, sequence: Sequence) -> None:
        """It has ended, wherever it was; what was computed stays as a cached prefix."""
        for place in (self.running, self.paused):
            if sequence in place:
                place.remove(sequence)
                self._num_places = self._max_streams
        self.waiting.remove(sequence)
        self._release(sequence)
        sequence.state = State.FINISHED

    def preempt(self) -> bool:
        """Take the row of a paused sequence, or else of the youngest; False where that would be the only one."""
        paused = self._longest_paused()
        if paused is not None:
            self._release(paused)
        elif len(self.running) > 1:
            youngest = self.running.pop()
            self._release(youngest)
            self._return(youngest)
        else:
            return False
        self.num_preemptions += 1
        return True

    def shed(self) -> bool:
        """The memory holds less than it should: preempt, and admit nobody instead until one of the others has ended."""
        if not self.preempt():
            return False
        self._num_places = max(1, self.num_rows)
        return True

    def check_integrity(self) -> None:
        """Raise AssertionError where a sequence is in the wrong place or a row is held by nobody."""
        self.kv.check_integrity()
        assert all(sequence.state is State.RUNNING and sequence.row is not None for sequence in self.running)
        assert all(sequence.state is State.PAUSED for sequence in self.paused)
        assert all(sequence.row is None for sequence in self.waiting)
        orders = [sequence.order for sequence in self.running]
        assert orders == sorted(orders), "running is not in order of admission"
        rows = [sequence.row for sequence in (*self.running, *self.paused) if sequence.row is not None]
        assert len(rows) == self.kv.num_active_rows <= self._max_streams, "a row is held by nobody, or by two"

    def _admit(self, now: float) -> None:
        """Give places to those who wait, in turn, while there are places and KV for their prompts."""
        while (sequence := self.waiting.peek()) is not None:
            if sequence.state is State.FINISHED:  # it was cancelled in the queue
                self.waiting.pop()
                continue
            # A place, or the KV, that a paused reader does not use goes to whoever waits.
            while self.num_rows >= self._num_places or not self._fits(sequence):
                if not self._park(now):
                    return
            self.waiting.pop()
            if self._claim(sequence):
                self._start(sequence, now)

    def _start(self, sequence: Sequence, now: float) -> None:
        if sequence.stats.admitted is None:
            sequence.stats.admitted = now
        if sequence.order < 0:
            sequence.order = self._num_admitted
            self._num_admitted += 1
        limit = len(sequence.tokens) - 1
        if self.num_rows or not sequence.is_seeded:  # otherwise only its own KV may be in the memory
            match = self.kv.match(sequence.tokens, limit)
            if not self.num_rows:
                self.kv.free_copied(match)
                self.kv.bring_back(sequence.tokens, limit)
            elif self._leader(sequence, match.length)[0] is None:
                sequence.has_offloaded = True  # a few pieces in each step
        self.kv.touch(self.kv.match(sequence.tokens, limit))  # so that acquire() does not evict it
        sequence.row = self.kv.acquire()
        at = sum(other.order < sequence.order for other in self.running)
        self.running.insert(at, sequence)
        if sequence.is_seeded and self.num_rows == 1:
            self.kv.isolate(sequence.row, sequence.tokens, limit, _REPEATABLE_CHUNK)
        self._attach(sequence)

    def _attach(self, sequence: Sequence) -> None:
        """Take the longest prefix that is there; where somebody is computing a longer one, wait for that."""
        row = sequence.row
        assert row is not None
        limit = len(sequence.tokens) - 1
        match = self.kv.match(sequence.tokens, limit)
        if match.length > row.length:
            self.kv.share(row, match)
        if not sequence.has_computed:
            sequence.stats.cached_tokens = row.length
        sequence.leader, sequence.leader_until = self._leader(sequence, row.length)

    def _leader(self, sequence: Sequence, has: int) -> tuple[Sequence | None, int]:
        best, most = None, has + _SHARE_AT_LEAST - 1
        for other in self.running:
            if other is sequence or (0 <= sequence.order <= other.order):
                continue  # only ahead in line, so that nobody waits in a circle
            if other.num_remaining <= 1:
                continue
            common = common_prefix(other.tokens, sequence.tokens, len(sequence.tokens) - 1)
            if common > most and other.num_computed < common:
                best, most = other, common
        return best, most if best is not None else 0

    def _is_held_up(self, sequence: Sequence) -> bool:
        """Whether its prompt need not be read in this step, since more of it will be there without that."""
        if sequence.has_offloaded:
            limit = len(sequence.tokens) - 1
            sequence.has_offloaded = self.kv.bring_back(sequence.tokens, limit, at_once=False)
            self._attach(sequence)
        return sequence.has_offloaded or self._waits_for_leader(sequence)

    def _waits_for_leader(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is None:
            return False
        if leader.state is State.RUNNING and leader.num_computed < sequence.leader_until:
            return True
        self._attach(sequence)  # it is there now; or the leader is gone, and what it computed is there
        return sequence.leader is not None

    def _fits(self, sequence: Sequence) -> bool:
        """Whether its tokens can be computed beside what the others still need."""
        if not self.num_rows:
            return True  # alone, everything that was accepted fits
        limit = len(sequence.tokens) - 1
        match = self.kv.match(sequence.tokens, limit)
        _, shared = self._leader(sequence, match.length)
        # What others hold or will hold anyway takes no cells; what is only cached has to be kept from eviction.
        need = len(sequence.tokens) + 1 - max(match.num_pinned, shared)
        promised = 0
        for other in self.running:
            own = max(other.num_computed, other.leader_until if other.leader is not None else 0)
            promised += len(other.tokens) - own + _HEADROOM
        return need + promised <= self.kv.num_available

    def _park(self, now: float) -> bool:
        """Take the row of the sequence that is paused longest; it queues again when its reader is back."""
        sequence = self._longest_paused()
        if sequence is None or (sequence.stats.paused_since or now) + PARK_AFTER > now:
            return False
        self._release(sequence)
        self.num_preemptions += 1
        return True

    def _longest_paused(self) -> Sequence | None:
        """The paused sequence that gives its row up first; None where none of them has one."""
        return next((sequence for sequence in self.paused if sequence.row is not None), None)

    def _make_room_for_decodes(self) -> None:
        while sum(sequence.num_remaining == 1 for sequence in self.running) > self.kv.num_available:
            if not self.preempt():
                raise AssertionError("a single sequence outgrew the KV cache")

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            self.kv.release(sequence.row)
            sequence.row = None
        sequence.leader = None
        sequence.has_offloaded = False

    def _return(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self.waiting.push_front(sequence)


def _share(prefills: SequenceOf[Sequence], chunk: int) -> list[tuple[Sequence, int]]:
    """Divide a chunk: half to the oldest, so that nobody starves; the rest to the shortest, so that they start soon."""
    oldest = prefills[0]
    shares = {id(sequence): 0 for sequence in prefills}
    half = min(oldest.num_remaining, chunk if len(prefills) == 1 else (chunk + 1) // 2)
    shares[id(oldest)] = half
    left = chunk - half
    for sequence in sorted(prefills, key=lambda sequence: sequence.num_remaining):
        more = min(left, sequence.num_remaining - shares[id(sequence)])
        shares[id(sequence)] += more
        left -= more
    return [(sequence, shares[id(sequence)]) for sequence in prefills]
