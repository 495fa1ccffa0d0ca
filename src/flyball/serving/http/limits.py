"""How many requests a second a key may make, over all workers of a node: one token bucket that nobody locks.

Each worker has three words per key in a mapped file, which it alone writes: whose they are, how many tokens it took,
and its mark. With T the tokens all workers took and c the nanoseconds that one token takes to come back, the bucket
holds burst + (now - mark)/c - T tokens, where the mark is the largest (now - T c) anybody ever saw: what flowed over
while the bucket was full. That is the virtual scheduling form of a token bucket (the generic cell rate algorithm, ATM
Forum 1996) taken apart into counters that only grow.

The surprise: a token is taken first and given back when there was none. Of two workers that race for the last token
each sees the other's, so both may refuse, but they never both take it. Nothing is leased ahead, so what an idle worker
does not use is there for the others at once.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

from flyball.errors import BadRequest

__all__ = ["EVERYBODY", "SEATS", "SERVER_KEY", "Bucket", "RateExceeded", "Rates"]

SEATS = 1024  # keys with a bucket at the same time
EVERYBODY, SERVER_KEY = 0, 1  # seats of callers without a key, and of `server.key`; keys have those above
_TAG, _TAKEN, _MARK, _WORDS = 0, 1, 2, 3
_SLOWEST = 1e-6  # tokens a second: one in eleven days
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class RateExceeded(BadRequest):
    """Say that a key made more requests than it may; `retry_after` is in seconds."""

    def __init__(self, name: str, rate: float, retry_after: float) -> None:
        again = max(1, math.ceil(retry_after))
        super().__init__(f"{name} may make {rate:g} requests a second and made more; send again in {again} s", 429)
        self.retry_after = retry_after


class Rates:
    """The buckets of a node, as one worker sees them."""

    def __init__(self, memory: mmap.mmap, *, slots: int, slot: int, clock: Callable[[], int]) -> None:
        """Wrap mapped memory; use `open` or `in_memory`."""
        self._memory = memory
        self.words = memoryview(memory).cast("q")
        self.slots, self.slot, self.clock = slots, slot, clock
        self._boot = _boot()
        self._buckets: dict[int, Bucket] = {}

    @classmethod
    def open(cls, path: Path, *, slots: int, slot: int) -> Rates:
        """Open the file, or make it; all workers of a node do, in any order.

        Args:
            path: The file; the number of slots becomes a part of its name, as its layout depends on it.
            slots: Workers of the node.
            slot: This worker.
        """
        size = SEATS * _WORDS * slots * 8
        fd = os.open(path.with_name(f"{path.name}.{slots}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
            return cls(mmap.mmap(fd, size), slots=slots, slot=slot, clock=time.monotonic_ns)
        finally:
            os.close(fd)

    @classmethod
    def in_memory(cls, *, slots: int = 1, clock: Callable[[], int] = time.monotonic_ns) -> Rates:
        """Make buckets that only this process sees."""
        return cls(mmap.mmap(-1, SEATS * _WORDS * slots * 8), slots=slots, slot=0, clock=clock)

    def seen_by(self, slot: int) -> Rates:
        """Return the same buckets as another worker sees them."""
        return Rates(self._memory, slots=self.slots, slot=slot, clock=self.clock)

    def take(self, seat: int, name: str, rate: float, burst: float) -> None:
        """Take one token of the bucket at `seat`.

        Args:
            seat: Which bucket, 0 to SEATS - 1.
            name: Whose it is; another name or another rate at the same seat begins a full bucket.
            rate: Tokens a second, above 0.
            burst: Tokens that a full bucket holds; at least 1.

        Raises:
            RateExceeded: there is none (429).
        """
        bucket = self._buckets.get(seat)
        if bucket is None or bucket.name != name or bucket.rate != rate or bucket.burst != burst:
            bucket = self._buckets[seat] = Bucket(self, seat, name, rate, burst, self._boot)
        missing = bucket.take()
        if missing:
            raise RateExceeded(name, rate, missing)


class Bucket:
    """One key's bucket in one worker's hands."""

    __slots__ = ("_cost", "_fence", "_full", "_mine", "_rates", "_tag", "_tags", "burst", "name", "rate")

    def __init__(self, rates: Rates, seat: int, name: str, rate: float, burst: float, boot: str = "") -> None:
        """Find the words; those of another key, of another rate or of before the machine's start are begun anew."""
        self.name, self.rate, self.burst = name, rate, burst
        self._rates = rates
        self._cost = max(1, math.ceil(1e9 / max(rate, _SLOWEST)))
        self._full = max(1, int(burst)) * self._cost
        self._tag = xxhash.xxh3_64_intdigest(f"{name}\0{rate!r}\0{burst!r}\0{boot}".encode()) >> 1 or 1
        self._tags = seat * _WORDS * rates.slots
        self._mine = self._tags + rates.slot
        self._fence = threading.Lock()

    def take(self) -> float:
        """Take a token; return 0.0, or the seconds until there may be one."""
        words, slots, mine, cost = self._rates.words, self._rates.slots, self._mine, self._cost
        taken_at, mark_at = mine + slots * _TAKEN, mine + slots * _MARK
        if words[mine] != self._tag:
            words[mine] = 0
            words[taken_at] = words[mark_at] = 0
            words[mine] = self._tag
        now = self._rates.clock()
        taken, mark = self._state()
        if now - taken * cost > mark:
            words[mark_at] = now - taken * cost
        words[taken_at] += 1
        if self._fence.acquire(blocking=False):  # a full barrier: what was written is seen before others are read
            self._fence.release()
        taken, mark = self._state()
        room = self._full + now - taken * cost - mark
        if room >= 0:
            return 0.0
        words[taken_at] -= 1
        return -room / 1e9

    def _state(self) -> tuple[int, int]:
        """Return what all workers took, and the mark."""
        words, slots, first = self._rates.words, self._rates.slots, self._tags
        if slots == 1:
            return words[first + _TAKEN], words[first + _MARK]
        block = words[first : first + slots * _WORDS].tolist()
        tag, taken, mark = self._tag, 0, 0
        for k in range(slots):
            if block[k] == tag:
                taken += block[k + slots]
                mark = max(mark, block[k + 2 * slots])
        return taken, mark


def _boot() -> str:
    """Return what names this run of the machine, whose monotonic clock begins anew with it."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
