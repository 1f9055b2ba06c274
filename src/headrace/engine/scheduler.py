"""`Scheduler`: decides which sequences get a slot, and which tokens the next step computes. No backend, no clock."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from headrace.engine.fair_queue import FairQueue
from headrace.engine.kv.cache import KVCache
from headrace.engine.kv.radix import common_prefix
from headrace.engine.sequence import Sequence, State
from headrace.engine.speculation.planner import Speculation
from headrace.engine.step import StepPart
from headrace.engine.tuning.cost import CostModel

__all__ = ["PARK_AFTER", "Scheduler"]

# A sequence waits for another one's prefill only if that saves at least this many tokens: the wait costs about a step.
_MIN_SHARED = 16
# Seconds for which a paused sequence keeps its slot while others wait for one. Most readers catch up sooner.
PARK_AFTER = 0.5
# Free cells per running sequence that an admission leaves over, so that the new sequence is not preempted right away.
_HEADROOM = 16
# Prefill tokens per step for a seeded stream that runs alone: a fixed size makes its logits repeatable.
_REPEATABLE_CHUNK = 32


class Scheduler:
    """Owns the queue, the slots and the rows of the KV cache. Used by the engine thread only.

    A sequence has a slot as long as it holds a row.

    Args:
        kv: the KV cache.
        cost: predicts step times.
        max_streams: number of slots.
        max_batch: the most tokens in a step.
        max_outputs: the most samples and drafts in a step.
        speculation: plans drafts.
        claim: marks a waiting sequence as running; returns False if it has ended in the queue.

    Attributes:
        kv: the KV cache.
        waiting: sequences without a row, except paused ones.
        running: sequences that take part in steps, oldest first.
        paused: sequences whose readers are behind, those paused longest first.
        num_preemptions: how often a sequence lost its row.
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
        self.running: list[Sequence] = []
        self.paused: list[Sequence] = []
        self.num_preemptions = 0
        self._cost = cost
        self._max_streams = max_streams
        self._num_slots = max_streams  # fewer after `shed`
        self._max_batch = max_batch
        self._max_outputs = min(max_outputs, max_batch)
        self._speculation = speculation
        self._claim = claim
        self._num_admitted = 0

    @property
    def num_rows(self) -> int:
        """The number of sequences that hold a row."""
        return len(self.running) + sum(sequence.row is not None for sequence in self.paused)

    def next_parking(self) -> float | None:
        """Returns when a waiting sequence may take a paused one's slot; None without such a pair of sequences."""
        if not len(self.waiting):
            return None
        sequence = self._longest_paused()
        return None if sequence is None else (sequence.stats.paused_since or 0.0) + PARK_AFTER

    def enqueue(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        tokens = sequence.tokens
        self.waiting.push(sequence, len(tokens) - self.kv.num_reachable(tokens, len(tokens) - 1))

    def schedule(self, now: float) -> list[StepPart]:
        """Admit waiting sequences, then plan the next step: decodes first, then prefill or drafts.

        Args:
            now: the time, on the clock of the stats.
        """
        self._speculation.seconds = 0.0
        self._admit(now)
        # This comes before the eviction for the decodes: held-up sequences share prefixes, which protects these.
        held_up = [sequence for sequence in self.running if sequence.num_remaining > 1 and self._is_held_up(sequence)]
        self._make_room_for_decodes()
        parts: list[StepPart] = []
        prefills: list[Sequence] = []
        for sequence in self.running:
            if sequence.num_remaining > 1:
                if sequence not in held_up:
                    prefills.append(sequence)
            elif sequence.row is not None:
                parts.append(StepPart(sequence, sequence.row, 1, samples=True))
        num_decodes = len(parts)
        if prefills:
            # If several prompts leave each other no cells, the youngest is preempted.
            while (room := self.kv.num_available - num_decodes) <= 0 and not num_decodes and self.preempt():
                prefills = [sequence for sequence in prefills if sequence.row is not None]
            chunk = min(self._chunk(prefills, num_decodes), room, self._max_batch - num_decodes)
            for sequence, count in _share(prefills, max(0, chunk)):
                if sequence.row is not None and count:
                    samples, is_repeatable = count == sequence.num_remaining, self._is_repeatable(sequence, count)
                    parts.append(StepPart(sequence, sequence.row, count, samples, is_repeatable=is_repeatable))
        else:  # no drafts beside prefill: they would delay it
            parts = self._with_drafts(parts)
        if not self.kv.make_room(sum(part.num_tokens + len(part.drafts) for part in parts)):
            raise AssertionError("the scheduler planned more than the KV cache holds")
        return parts

    def _chunk(self, prefills: list[Sequence], num_decodes: int) -> int:
        """Returns how many prefill tokens the next step should have, if there is room."""
        if len(self.running) == 1 and prefills[0].is_seeded:
            # The chunk size decides the last bits of the logits, so it must not depend on measured times.
            return _REPEATABLE_CHUNK - prefills[0].num_computed % _REPEATABLE_CHUNK
        return self._cost.chunk(num_decodes, len(prefills))

    def _is_repeatable(self, sequence: Sequence, count: int) -> bool:
        is_alone = len(self.running) == 1 and sequence.is_seeded
        return is_alone and count == _REPEATABLE_CHUNK and sequence.num_computed % _REPEATABLE_CHUNK == 0

    @property
    def draft_seconds(self) -> float:
        """Seconds that the last `schedule` spent in the draft model."""
        return self._speculation.seconds

    def _with_drafts(self, parts: list[StepPart]) -> list[StepPart]:
        """Add drafts where they pay. They use free cells only: nothing is evicted for them."""
        if not parts or not self.kv.can_drop_partial:
            return parts
        room = min(self._max_outputs, self.kv.num_free) - len(parts)
        drafts = self._speculation.plan([part.sequence for part in parts], room)
        for index, tokens in drafts.items():
            parts[index] = parts[index]._replace(drafts=tokens)
        return parts

    def computed(self, part: StepPart, num_accepted: int = 0) -> None:
        """Record that a step computed a part and accepted its first `num_accepted` drafts; remove the other drafts."""
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
        """Take a sequence out of the steps, because its reader is behind. It keeps its row."""
        self.running.remove(sequence)
        sequence.state = State.PAUSED
        self.paused.append(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Let a paused sequence take part in steps again; queue it if it has lost its row."""
        self.paused.remove(sequence)
        if sequence.row is None:
            self._requeue(sequence)
        else:
            sequence.state = State.RUNNING
            at = sum(other.order < sequence.order for other in self.running)
            self.running.insert(at, sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence that has ended, whatever its state. Its KV stays as a cached prefix."""
        for sequences in (self.running, self.paused):
            if sequence in sequences:
                sequences.remove(sequence)
                self._num_slots = self._max_streams
        self.waiting.remove(sequence)
        self._release(sequence)
        sequence.state = State.FINISHED

    def preempt(self) -> bool:
        """Take the row of a paused sequence, or else of the youngest running one; False if only one is running."""
        paused = self._longest_paused()
        if paused is not None:
            self._release(paused)
        elif len(self.running) > 1:
            youngest = self.running.pop()
            self._release(youngest)
            self._requeue(youngest)
        else:
            return False
        self.num_preemptions += 1
        return True

    def shed(self) -> bool:
        """Preempt a sequence because the backend's memory is full. There are fewer slots until a sequence ends."""
        if not self.preempt():
            return False
        self._num_slots = max(1, self.num_rows)
        return True

    def check_integrity(self) -> None:
        """Raise AssertionError if a sequence is in the wrong list, or a row belongs to no sequence."""
        self.kv.check_integrity()
        assert all(sequence.state is State.RUNNING and sequence.row is not None for sequence in self.running)
        assert all(sequence.state is State.PAUSED for sequence in self.paused)
        assert all(sequence.row is None for sequence in self.waiting)
        orders = [sequence.order for sequence in self.running]
        assert orders == sorted(orders), "running is not in order of admission"
        rows = [sequence.row for sequence in (*self.running, *self.paused) if sequence.row is not None]
        assert len(rows) == self.kv.num_active_rows <= self._max_streams, "a row belongs to no sequence, or to two"

    def _admit(self, now: float) -> None:
        """Start waiting sequences in turn, while there are free slots and enough cells."""
        while (sequence := self.waiting.peek()) is not None:
            if sequence.state is State.FINISHED:  # it was cancelled in the queue
                self.waiting.pop()
                continue
            # Paused sequences give up their slots and their KV for the waiting one.
            while self.num_rows >= self._num_slots or not self._fits(sequence):
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
        if self.num_rows or not sequence.is_seeded:  # a seeded stream that runs alone is isolated below instead
            match = self.kv.match(sequence.tokens, limit)
            if not self.num_rows:
                self.kv.free_copied(match)
                self.kv.restore(sequence.tokens, limit)
            elif self._leader(sequence, match.length)[0] is None:
                sequence.has_offloaded = True  # bring back a few blocks in each step
        self.kv.touch(self.kv.match(sequence.tokens, limit))  # so that acquire() does not evict the prefix
        sequence.row = self.kv.acquire()
        at = sum(other.order < sequence.order for other in self.running)
        self.running.insert(at, sequence)
        if sequence.is_seeded and self.num_rows == 1:
            self.kv.isolate(sequence.row, sequence.tokens, limit, _REPEATABLE_CHUNK)
        self._attach(sequence)

    def _attach(self, sequence: Sequence) -> None:
        """Share the longest cached prefix; if another sequence is computing a longer one, wait for that one."""
        row = sequence.row
        assert row is not None
        limit = len(sequence.tokens) - 1
        match = self.kv.match(sequence.tokens, limit)
        if match.length > row.length:
            self.kv.share(row, match)
        if not sequence.has_computed:
            sequence.stats.cached_tokens = row.length
        sequence.leader, sequence.leader_until = self._leader(sequence, row.length)

    def _leader(self, sequence: Sequence, num_held: int) -> tuple[Sequence | None, int]:
        """Returns a sequence that is computing more of the same prefix, and the prefix's length; (None, 0) if none is.

        Args:
            sequence: the sequence that would wait.
            num_held: how many of its tokens are cached or computed already.
        """
        best, most = None, num_held + _MIN_SHARED - 1
        for other in self.running:
            if other is sequence or (0 <= sequence.order <= other.order):
                continue  # only older sequences lead, so that no two wait for each other
            if other.num_remaining <= 1:
                continue
            common = common_prefix(other.tokens, sequence.tokens, len(sequence.tokens) - 1)
            if common > most and other.num_computed < common:
                best, most = other, common
        return best, most if best is not None else 0

    def _is_held_up(self, sequence: Sequence) -> bool:
        """Returns whether to leave a prompt out of this step, because its KV is being brought back or computed."""
        if sequence.has_offloaded:
            limit = len(sequence.tokens) - 1
            sequence.has_offloaded = self.kv.restore(sequence.tokens, limit, at_once=False)
            self._attach(sequence)
        return sequence.has_offloaded or self._waits_for_leader(sequence)

    def _waits_for_leader(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is None:
            return False
        if leader.state is State.RUNNING and leader.num_computed < sequence.leader_until:
            return True
        self._attach(sequence)  # share what the leader computed; it may have ended or been preempted
        return sequence.leader is not None

    def _fits(self, sequence: Sequence) -> bool:
        """Returns whether there are enough cells for a waiting sequence and for the running ones."""
        if not self.num_rows:
            return True  # `submit` has checked that each sequence fits alone
        limit = len(sequence.tokens) - 1
        match = self.kv.match(sequence.tokens, limit)
        _, shared = self._leader(sequence, match.length)
        # Tokens that a running sequence holds or will hold take no further cells. Tokens that are only cached do,
        # because they can no longer be evicted.
        need = len(sequence.tokens) + 1 - max(match.num_pinned, shared)
        promised = 0
        for other in self.running:
            own = max(other.num_computed, other.leader_until if other.leader is not None else 0)
            promised += len(other.tokens) - own + _HEADROOM
        return need + promised <= self.kv.num_available

    def _park(self, now: float) -> bool:
        """Take the row of the sequence that is paused longest, if that is long enough; it queues again on resume."""
        sequence = self._longest_paused()
        if sequence is None or (sequence.stats.paused_since or now) + PARK_AFTER > now:
            return False
        self._release(sequence)
        self.num_preemptions += 1
        return True

    def _longest_paused(self) -> Sequence | None:
        """Returns the paused sequence that gives up its row first; None if no paused sequence has a row."""
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

    def _requeue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self.waiting.push_front(sequence)


def _share(prefills: SequenceOf[Sequence], chunk: int) -> list[tuple[Sequence, int]]:
    """Divide a chunk among prompts: half to the oldest, so that none starves; the rest to the shortest first."""
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
