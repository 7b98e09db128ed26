"""One clock, one queue, one seed: everything that happens in a simulated run happens here, in one order.

Time is integer microseconds of *true* time; what a node believes is in `clock.py`. Events of one instant run
in the order in which they were asked for. Nothing runs beside the queue: no thread, no wall clock, no
order of a set or of `id()`.

Two runs of one seed are the same run. `trace_hash` proves it: every event's time and whatever is noted goes
into one running checksum. `unseed` is one more number drawn at the end (an idea of FoundationDB's): if two
runs agree in it, they have drawn equally often.
"""

import heapq
import random
import zlib
from array import array
from collections.abc import Callable

Callback = Callable[[], object]
_FLUSH_AT = 4096


class World:
    def __init__(self, seed: int | str) -> None:
        self.rng = random.Random(seed)  # the network's and the disks' chance; what else is drawn has its own
        self.now = 1_000_000  # so that a clock may lag
        self._queue: list[tuple[int, int, Callback]] = []
        self._sequence = 0
        self._noted = array("q")
        self._crc = 0
        self.events = 0
        self.broken = False  # something is wrong: `run_until` returns after the event under way

    def at(self, when: int, callback: Callback) -> None:
        """Run `callback` at the true time `when`, not before now."""
        self._sequence += 1
        heapq.heappush(self._queue, (when if when > self.now else self.now, self._sequence, callback))

    def after(self, delay_us: int, callback: Callback) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + delay_us, self._sequence, callback))

    def run_until(self, end: int, stop: Callable[[], bool] | None = None) -> bool:
        """Run events up to the true time `end`, or until `stop()` is true after one. True if it stopped."""
        queue, pop, note = self._queue, heapq.heappop, self._noted.append
        left = _FLUSH_AT
        while queue and queue[0][0] <= end:
            self.now, _, callback = pop(queue)
            note(self.now)
            callback()
            left -= 1
            if not left:
                self.events += _FLUSH_AT
                left = _FLUSH_AT
                self._flush()
            if self.broken or (stop is not None and stop()):
                self.events += _FLUSH_AT - left
                return True
        self.events += _FLUSH_AT - left
        self.now = max(self.now, end)
        return False

    def note(self, value: int) -> None:
        """Something that two equal runs must have in common."""
        self._noted.append(value)

    def note_bytes(self, data: bytes) -> None:
        self._noted.append(zlib.crc32(data))

    def _flush(self) -> None:
        self._crc = zlib.crc32(self._noted.tobytes(), self._crc)
        del self._noted[:]

    def trace_hash(self) -> str:
        """Eight hex digits over all events so far and all notes."""
        self._flush()
        return f"{self._crc:08x}"

    def unseed(self) -> int:
        """The next random number. Call it once, at the end."""
        return self.rng.getrandbits(32)
