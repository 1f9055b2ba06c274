"""Chooses the compute threads of each step: what is fastest now, also while somebody else wants the cores."""

from __future__ import annotations

from headrace.engine.tuning.cost import CostModel

__all__ = ["Governor"]

# A step that takes so many times as long as it should is held up by somebody: twice in a row, or once by very much and
# for so many seconds. A short one may just have met something that is over.
_HELD_UP = 1.5
_HELD_UP_BY_FAR = 4.0
_FOR_LONG = 0.1
_CALM = 1.3
# Of two counts that are about as fast, the larger one: it is the one whose time is known best.
_CLEARLY = 0.97
# What holds threads up is mostly over soon, and who has shed them finds that out late: fewer have to be faster by this.
_WORTH_SHEDDING = 0.8
# Steps are in a row when no more than this many seconds lie between them: the first one after a pause meets the work of
# those who have just asked for it.
_PAUSE = 0.5
_WEIGHT = 0.2
# What is held up may as well be the new truth (a sequence has become long, say): believed little by little.
_DOUBT = 0.02
# What was only tried has to count for more: it is not seen often. What was known to be far worse is tried again soon.
_TRIED = 0.5
_FAR_BETTER = 0.8
# Seconds until threads that were shed are tried again, first and at most; each failure doubles them.
_FIRST_PROBE = 0.25
_LAST_PROBE = 4.0
# What says that more threads are slower was measured at another time, maybe beside somebody. So they are tried at once
# where so many sequences have never decoded with them, and then for this share of the time.
_SHARE_OF_TRIES = 1 / 50
# Seconds after which any other count is tried although nothing speaks for it: what is known of it may be wrong. They
# double from the first to the last.
_FIRST_EXPLORATION = 0.5
_LAST_EXPLORATION = 16.0


class Governor:
    """Threads for each step, by the cost model's tables and by how much longer steps take than these say.

    llama.cpp's threads wait for each other some hundred times in a step, and a thread that lost its core to another
    process holds up all of them: a step then takes 3 to 200 times as long, while fewer threads lose nothing. So as soon
    as steps take far longer than predicted, the counts from that one up are taken to be slower by what was seen, and
    what is then the fastest is chosen. From time to time one step tries what was best; two good ones in a row end it.

    Args:
        cost: the tables; the governor feeds them, and writes their `slowdown`.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._held_up = dict.fromkeys(cost.threads, 0)
        self._last_end = 0.0
        self._tries: int | None = None
        self._good_tries = 0
        self._wait = _FIRST_PROBE
        self._probe_at = 0.0
        self._exploration = _FIRST_EXPLORATION
        self._explore_at: float | None = None
        self._last: dict[tuple[int, int], float] = {}  # when so many sequences decoded with so many threads

    def choose(self, num_decodes: int, num_prefill: int, now: float, *, repeatable: bool = False) -> int:
        """Threads for a step.

        Args:
            num_decodes: sequences that decode in it.
            num_prefill: tokens of prompts in it.
            now: seconds, on a clock that only rises.
            repeatable: whether it shall have the same threads whenever it is run: all of them.
        """
        counts = self._cost.threads
        self._tries = None
        if repeatable or len(counts) == 1:
            return counts[-1]
        best = self._fastest(num_decodes, num_prefill, calm=False)
        if self._explore_at is None:
            self._explore_at = now + self._exploration
        wanted = self._fastest(num_decodes, num_prefill, calm=True)
        at = counts.index(best)
        more = counts[at + 1 : at + 2]
        if wanted != best:
            # A step that reads a prompt is long, and longer by as much as it fails: better is one that only decodes.
            if now >= self._probe_at + (_LAST_PROBE if num_prefill else 0.0):
                self._tries = wanted
        elif more and not num_prefill and now >= max(self._probe_at, self._try_at(num_decodes, more[0])):
            self._tries = more[0]
        elif now >= self._explore_at:
            neighbour = more if num_prefill else counts[max(0, at - 1) : at]  # with fewer a prompt might take very long
            if neighbour:
                self._exploration = min(2 * self._exploration, _LAST_EXPLORATION)
                self._explore_at = now + self._exploration
                self._tries = neighbour[0]
        threads = best if self._tries is None else self._tries
        if not num_prefill:
            self._last[num_decodes, threads] = now
        return threads

    def _try_at(self, num_decodes: int, threads: int) -> float:
        """When to try whether so many sequences do not decode faster with more threads."""
        last = self._last.get((num_decodes, threads))
        return 0.0 if last is None else last + self._cost.step_time(num_decodes, 0, threads) / _SHARE_OF_TRIES

    def observe(self, num_decodes: int, num_prefill: int, threads: int, seconds: float, now: float) -> None:
        """Take in what a step took, with the threads that were chosen for it or others."""
        cost = self._cost
        expected = cost.tables[threads].step_time(num_decodes, num_prefill)
        if not expected:
            cost.learn(num_decodes, num_prefill, seconds, threads)
            return
        ratio = seconds / expected
        if now - seconds > self._last_end + _PAUSE:
            self._held_up = dict.fromkeys(cost.threads, 0)
        self._last_end = now
        if self._tries == threads:
            was_held_up = cost.slowdown[threads] > 1
            if ratio > _HELD_UP:
                self._probe_at = max(self._probe_at, now + _FIRST_PROBE)
            self._judge(threads, ratio, now)
            if ratio < 1 or not was_held_up:
                cost.learn(num_decodes, num_prefill, seconds, threads, 1.0 if ratio < _FAR_BETTER else _TRIED)
                if ratio < _FAR_BETTER:  # again, and soon: other shapes may be known as badly
                    self._exploration = _FIRST_PROBE
                    self._explore_at = now + _FIRST_PROBE
        elif cost.slowdown[threads] > 1:
            known = cost.slowdown[threads]
            slowdown = known + _WEIGHT * (min(ratio, 4 * known) - known)
            cost.slowdown[threads] = slowdown if slowdown > 1.1 else 1.0
            # Fewer threads are not held up by who holds these up.
            weight = _DOUBT if ratio > 1 else _WEIGHT
            cost.learn(num_decodes, num_prefill, seconds, threads, weight, for_all=ratio <= 1)
        else:
            self._held_up[threads] = self._held_up[threads] + 1 if ratio > _HELD_UP else 0
            # A single thread waits for no other: steps that are slow with it are slow with any.
            can_shed = threads > cost.threads[0]
            by_far = ratio > _HELD_UP_BY_FAR and seconds > expected + _FOR_LONG
            if can_shed and (self._held_up[threads] >= 2 or by_far):
                self._shed(threads, ratio, now)
            elif self._held_up[threads] != 1:  # a single slow step says nothing
                cost.learn(num_decodes, num_prefill, seconds, threads, for_all=True)

    def _fastest(self, num_decodes: int, num_prefill: int, *, calm: bool) -> int:
        counts = self._cost.threads
        best, least = counts[-1], self._cost.step_time(num_decodes, num_prefill, counts[-1], calm=calm)
        for threads in counts[-2::-1]:
            seconds = self._cost.step_time(num_decodes, num_prefill, threads, calm=calm)
            is_held_up = not calm and self._cost.slowdown[best] > 1
            if seconds < least * (_WORTH_SHEDDING if is_held_up else _CLEARLY):
                best, least = threads, seconds
        return best

    def _shed(self, threads: int, ratio: float, now: float) -> None:
        """So many threads hold each other up; more of them would do so, too."""
        for count in self._cost.threads:
            if count >= threads:
                self._cost.slowdown[count] = max(self._cost.slowdown[count], ratio)
        self._held_up[threads] = 0
        self._probe_at = now + self._wait

    def _judge(self, threads: int, ratio: float, now: float) -> None:
        """A step has tried what is not the choice at present."""
        cost = self._cost
        if cost.slowdown[threads] == 1:
            return
        if ratio > _CALM:
            cost.slowdown[threads] = max(ratio, 1.1)
            self._good_tries = 0
            self._wait = min(2 * self._wait, _LAST_PROBE)
            self._probe_at = now + self._wait
            return
        self._good_tries += 1
        if self._good_tries < 2:
            self._probe_at = now  # the next step, too
            return
        for count in cost.threads:
            if count <= threads:
                cost.slowdown[count] = 1.0
        self._good_tries = 0
        # Whoever comes and goes all the time is not believed sooner each time.
        self._wait = max(_FIRST_PROBE, self._wait / 2)
