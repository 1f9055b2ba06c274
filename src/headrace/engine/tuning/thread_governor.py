"""`Governor`: chooses the thread count that is fastest for each step, also while other processes use the cores."""

from __future__ import annotations

from headrace.engine.tuning.cost import CostModel

__all__ = ["Governor"]

# A step counts as held up if it takes this many times its predicted time. The governor uses fewer threads after two
# such steps in a row, or after one step that takes 4 times as long and 0.1 seconds longer. A single short step is not
# enough: it may have met a short disturbance.
_HELD_UP = 1.5
_HELD_UP_BY_FAR = 4.0
_HELD_UP_SECONDS = 0.1
_CALM = 1.3  # a probe below this ratio counts as undisturbed
# A smaller thread count is chosen only if its step takes less than this share of the larger count's step. The times of
# the largest count are known best.
_CLEARLY = 0.97
# The same share while the larger count is slowed down. Disturbances are mostly short, and their end is noticed late.
_WORTH_SHEDDING = 0.8
# Steps count as in a row if at most this many seconds lie between them. The first step after a pause may be slow
# because clients that have just sent a request use the cores, too.
_PAUSE = 0.5
_WEIGHT = 0.2
# The weight of a slow step while a slowdown is assumed. The cause may be a sequence that has become long.
_DOUBT = 0.02
# The weight of a probe, which is rare. A probe far faster than predicted counts fully, and is repeated soon.
_PROBE_WEIGHT = 0.5
_FAR_BETTER = 0.8
# Seconds until a slowed-down thread count is probed: at first the first value, doubled by each failed probe up to the
# second.
_FIRST_PROBE = 0.25
_LAST_PROBE = 4.0
# The times of more threads may have been measured while another process used the cores. So more threads are tried at
# once if a number of sequences has never decoded with them, and later in this share of the time.
_PROBE_SHARE = 1 / 50
# Seconds until the next smaller or larger thread count is tried although it looks slower, because its known times may
# be wrong. The delay doubles from the first value to the last.
_FIRST_EXPLORATION = 0.5
_LAST_EXPLORATION = 16.0


class Governor:
    """Chooses threads by the times in the cost model, and by how much longer steps take than predicted.

    llama.cpp's threads wait for each other some hundred times in a step. If one thread loses its core to another
    process, all others wait for it, and the step takes 3 to 200 times as long. Fewer threads would not be slowed down.
    So when steps take far longer than predicted, the governor assumes the same slowdown for this thread count and all
    larger ones, and chooses the fastest count again. Probes are single steps with the former count. Two good probes in
    a row end the slowdown.

    Args:
        cost: the cost model; the governor teaches it, and writes its `slowdown`.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._num_held_up = dict.fromkeys(cost.threads, 0)  # held-up steps in a row, by thread count
        self._last_end = 0.0
        self._probed: int | None = None  # the thread count that the current step probes
        self._num_good_probes = 0
        self._probe_delay = _FIRST_PROBE
        self._probe_at = 0.0
        self._exploration_delay = _FIRST_EXPLORATION
        self._explore_at: float | None = None
        self._last: dict[tuple[int, int], float] = {}  # the last time of a step, by its decodes and threads

    def choose(self, num_decodes: int, num_prefill: int, now: float, *, repeatable: bool = False) -> int:
        """Returns the thread count for a step.

        Args:
            num_decodes: sequences that decode in the step.
            num_prefill: prefill tokens of the step.
            now: seconds, on a monotonic clock.
            repeatable: whether the step must always have the same thread count: the largest.
        """
        counts = self._cost.threads
        self._probed = None
        if repeatable or len(counts) == 1:
            return counts[-1]
        best = self._fastest(num_decodes, num_prefill, calm=False)
        if self._explore_at is None:
            self._explore_at = now + self._exploration_delay
        calm_best = self._fastest(num_decodes, num_prefill, calm=True)
        at = counts.index(best)
        more = counts[at + 1 : at + 2]
        if calm_best != best:
            # A failed probe makes a step many times as long. So steps with prefill, which are long, are probed later.
            if now >= self._probe_at + (_LAST_PROBE if num_prefill else 0.0):
                self._probed = calm_best
        elif more and not num_prefill and now >= max(self._probe_at, self._next_probe(num_decodes, more[0])):
            self._probed = more[0]
        elif now >= self._explore_at:
            neighbour = more if num_prefill else counts[max(0, at - 1) : at]  # fewer threads might prefill very slowly
            if neighbour:
                self._exploration_delay = min(2 * self._exploration_delay, _LAST_EXPLORATION)
                self._explore_at = now + self._exploration_delay
                self._probed = neighbour[0]
        threads = best if self._probed is None else self._probed
        if not num_prefill:
            self._last[num_decodes, threads] = now
        return threads

    def _next_probe(self, num_decodes: int, threads: int) -> float:
        """Returns when to try whether this many sequences decode faster with more threads."""
        last = self._last.get((num_decodes, threads))
        return 0.0 if last is None else last + self._cost.step_time(num_decodes, 0, threads) / _PROBE_SHARE

    def observe(self, num_decodes: int, num_prefill: int, threads: int, seconds: float, now: float) -> None:
        """Learn from the time of a step, run with the chosen thread count or another one."""
        cost = self._cost
        expected = cost.tables[threads].step_time(num_decodes, num_prefill)
        if not expected:
            cost.learn(num_decodes, num_prefill, seconds, threads)
            return
        ratio = seconds / expected
        if now - seconds > self._last_end + _PAUSE:
            self._num_held_up = dict.fromkeys(cost.threads, 0)
        self._last_end = now
        if self._probed == threads:
            was_held_up = cost.slowdown[threads] > 1
            if ratio > _HELD_UP:
                self._probe_at = max(self._probe_at, now + _FIRST_PROBE)
            self._judge(threads, ratio, now)
            if ratio < 1 or not was_held_up:
                cost.learn(num_decodes, num_prefill, seconds, threads, 1.0 if ratio < _FAR_BETTER else _PROBE_WEIGHT)
                if ratio < _FAR_BETTER:  # explore again soon: other step shapes may be known as badly
                    self._exploration_delay = _FIRST_PROBE
                    self._explore_at = now + _FIRST_PROBE
        elif cost.slowdown[threads] > 1:
            known = cost.slowdown[threads]
            slowdown = known + _WEIGHT * (min(ratio, 4 * known) - known)
            cost.slowdown[threads] = slowdown if slowdown > 1.1 else 1.0
            # A slow step says nothing about smaller counts: the disturbance may not slow them down.
            weight = _DOUBT if ratio > 1 else _WEIGHT
            cost.learn(num_decodes, num_prefill, seconds, threads, weight, for_all=ratio <= 1)
        else:
            self._num_held_up[threads] = self._num_held_up[threads] + 1 if ratio > _HELD_UP else 0
            # A single thread waits for no other. A step that is slow with one thread is slow with any count.
            can_shed = threads > cost.threads[0]
            by_far = ratio > _HELD_UP_BY_FAR and seconds > expected + _HELD_UP_SECONDS
            if can_shed and (self._num_held_up[threads] >= 2 or by_far):
                self._shed(threads, ratio, now)
            elif self._num_held_up[threads] != 1:  # a single slow step may be chance
                cost.learn(num_decodes, num_prefill, seconds, threads, for_all=True)

    def _fastest(self, num_decodes: int, num_prefill: int, *, calm: bool) -> int:
        """Returns the thread count with the shortest predicted step; `calm` ignores the present slowdown."""
        counts = self._cost.threads
        best, least = counts[-1], self._cost.step_time(num_decodes, num_prefill, counts[-1], calm=calm)
        for threads in counts[-2::-1]:
            seconds = self._cost.step_time(num_decodes, num_prefill, threads, calm=calm)
            is_held_up = not calm and self._cost.slowdown[best] > 1
            if seconds < least * (_WORTH_SHEDDING if is_held_up else _CLEARLY):
                best, least = threads, seconds
        return best

    def _shed(self, threads: int, ratio: float, now: float) -> None:
        """Assume a slowdown for this thread count and all larger ones."""
        for count in self._cost.threads:
            if count >= threads:
                self._cost.slowdown[count] = max(self._cost.slowdown[count], ratio)
        self._num_held_up[threads] = 0
        self._probe_at = now + self._probe_delay

    def _judge(self, threads: int, ratio: float, now: float) -> None:
        """Judge a probe: raise the slowdown, or end it after two good probes in a row."""
        cost = self._cost
        if cost.slowdown[threads] == 1:
            return
        if ratio > _CALM:
            cost.slowdown[threads] = max(ratio, 1.1)
            self._num_good_probes = 0
            self._probe_delay = min(2 * self._probe_delay, _LAST_PROBE)
            self._probe_at = now + self._probe_delay
            return
        self._num_good_probes += 1
        if self._num_good_probes < 2:
            self._probe_at = now  # probe in the next step, too
            return
        for count in cost.threads:
            if count <= threads:
                cost.slowdown[count] = 1.0
        self._num_good_probes = 0
        # The delay is halved, not reset: a disturbance that comes and goes keeps it long.
        self._probe_delay = max(_FIRST_PROBE, self._probe_delay / 2)
