"""The shared map: what all processes of a node see of each other, in one memory-mapped file.

Header: the routing table wanted, domain time, the kill switch. Then one slot per worker, written by that worker only:
who it is, which table it serves, its veto, its counters. The surprise: nothing here is locked. Every field is one
aligned 8-byte store, every slot has one writer, and totals go on from where the last owner of the slot stopped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import xxhash

from flyball.errors import IntegrityError, Unavailable
from flyball.serving.shared.histogram import BUCKET_COUNT, bucket_of

__all__ = ["ARMS", "STORES", "ArmTotals", "Counter", "SharedMap", "Slot", "StoreTotals", "Veto", "VetoReason"]

_MAGIC = 0x6C61626C6C796C66  # "flyllbal", little-endian
_LAYOUT = 4
_HEADER = 64  # words of 8 bytes
_WORDS = 1152  # words per slot
ARMS = ("champion", "candidate", *(f"variant-{k}" for k in range(1, 7)))  # counted apart; variants by their order

# header words
_H_MAGIC, _H_LAYOUT, _H_SLOTS, _H_TABLE, H_TIME, _H_KILL, H_GATE, _H_DEGRADED = range(8)
# slot words
_PID, _GENERATION, _HEARTBEAT, _ACK, _VETO, _VETO_REASON, _VETO_MODEL, _SHADOW_SENT, _SHADOW_DROPPED, _LOG_DROPPED = (
    range(10)
)
_REFUSED, _REFUSED_WHY = 10, 11
_ARM = 16  # first word of the first arm
_ARM_WORDS = 8 + BUCKET_COUNT
_STORE = _ARM + len(ARMS) * _ARM_WORDS  # first word of what reading the online store took
_STORE_KIND, _STORE_MICROS, _STORE_ERRORS, _STORE_DEFAULTED, _STORE_STALE, _STORE_BUCKETS = 0, 1, 2, 3, 4, 8
STORES = ("", "lmdb", "redis", "postgres")
_COUNTERS = 1024  # first word of the counters; 64 of them
_REQUESTS, _ROWS, _ERRORS, _FALLBACKS, _MICROS, _BUCKETS = 0, 1, 2, 3, 4, 8
_STATES = {"error": _STORE_ERRORS, "defaulted": _STORE_DEFAULTED, "stale": _STORE_STALE}


class VetoReason(IntEnum):
    """Why a worker removed candidate traffic by itself."""

    NONE = 0
    FAILURES = 1
    HOST_GONE = 2
    LOAD_FAILED = 3
    MEMORY = 4
    SLOW = 5
    DIFFERENT = 6
    STARTING = 7

    @property
    def words(self) -> str:
        """Say it in a sentence's part."""
        return _SAID[self]


_SAID = {
    VetoReason.NONE: "nothing",
    VetoReason.FAILURES: "it failed too often",
    VetoReason.HOST_GONE: "its host process is gone",
    VetoReason.LOAD_FAILED: "it could not be loaded, or could not answer its own sample",
    VetoReason.MEMORY: "there is not memory enough for it beside what is loaded (server.model_memory)",
    VetoReason.SLOW: "one row takes it longer than a whole request may (deadline)",
    VetoReason.DIFFERENT: "it answers its own sample otherwise than when it was registered",
    VetoReason.STARTING: "its host process is still starting",
}


class Counter(IntEnum):
    """Totals of one worker beyond those of its arms; the number is a place in the slot, so new ones go to the end."""

    CACHE_HITS = 0
    CACHE_MISSES = 1
    CACHE_EVICTIONS = 2
    CACHE_BYPASSES = 3
    REFUSED_RATE = 4
    REFUSED_BUSY = 5
    REFUSED_KEY = 6
    BAD_REQUESTS = 7
    SLOW_CLIENTS = 8
    DISCONNECTED = 9
    BATCHES = 10
    BATCH_ROWS = 11
    BATCH_SPLITS = 12
    LOOP_RESTARTS = 13
    MODEL_LOADS = 14
    MODEL_EVICTIONS = 15
    SHADOW_AGREED = 16
    SHADOW_DIFFERED = 17
    SWAPS = 18
    SWAPS_REFUSED = 19
    FLAGS = 20
    GRPC_REQUESTS = 21
    EXPLANATIONS = 22
    ACCESS_LOG_DROPPED = 23
    SHADOW_ERRORS = 24
    SHADOW_MICROS = 25


@dataclass(frozen=True, slots=True)
class Veto:
    """A worker's veto: under which table, why, and of which model (`model_hash` of its name)."""

    table: int
    reason: VetoReason
    model: int


@dataclass(frozen=True, slots=True)
class ArmTotals:
    """One arm's totals in one slot; `micros` is the sum of latencies, `buckets` their histogram."""

    requests: int
    rows: int
    errors: int
    fallbacks: int
    micros: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """A slot's reads of the online store: failed ones, those answered by policy, sum and histogram of micros."""

    store: str
    micros: int
    errors: int
    defaulted: int
    stale: int
    buckets: tuple[int, ...]


class Slot:
    """One worker's part of the map. Only its owner writes; anyone reads."""

    __slots__ = ("_words", "index")

    def __init__(self, words: memoryview, index: int) -> None:
        """Wrap the `_WORDS` words of slot `index`."""
        self._words = words
        self.index = index

    def claim(self, pid: int | None = None) -> int:
        """Become the owner: a new generation with nothing acknowledged and no veto; totals stay. Return it."""
        words = self._words
        words[_ACK] = words[_REFUSED] = 0
        words[_VETO] = words[_VETO_REASON] = words[_VETO_MODEL] = 0
        words[_GENERATION] += 1
        words[_HEARTBEAT] = time.monotonic_ns()
        words[_PID] = os.getpid() if pid is None else pid
        return int(words[_GENERATION])

    def release(self) -> None:
        """Leave the slot: nobody lives here until the next claim."""
        self._words[_PID] = 0

    @property
    def pid(self) -> int:
        """The owner's process, 0 when the slot is free."""
        return int(self._words[_PID])

    @property
    def generation(self) -> int:
        """How many owners the slot has had."""
        return int(self._words[_GENERATION])

    @property
    def heartbeat(self) -> int:
        """The owner's last sign of life, monotonic nanoseconds."""
        return int(self._words[_HEARTBEAT])

    def beat(self) -> None:
        """Give a sign of life."""
        self._words[_HEARTBEAT] = time.monotonic_ns()

    @property
    def acknowledged(self) -> int:
        """The version of the routing table that the worker serves."""
        return int(self._words[_ACK])

    def acknowledge(self, table: int) -> None:
        """Say that every request from now on is served under `table`."""
        self._words[_ACK] = table
        self._words[_REFUSED] = 0

    def refuse(self, table: int, reason: VetoReason) -> None:
        """Say that the worker goes on serving the former table, and why."""
        self._words[_REFUSED_WHY] = int(reason)
        self._words[_REFUSED] = table

    @property
    def refused(self) -> tuple[int, VetoReason] | None:
        """The table that the worker refused last and why, None once it serves another."""
        table = int(self._words[_REFUSED])
        return None if table == 0 else (table, VetoReason(self._words[_REFUSED_WHY]))

    @property
    def veto(self) -> Veto | None:
        """The worker's veto, if it has one."""
        words = self._words
        if words[_VETO_REASON] == 0:
            return None
        return Veto(int(words[_VETO]), VetoReason(words[_VETO_REASON]), int(words[_VETO_MODEL]))

    def set_veto(self, table: int, reason: VetoReason, model: str) -> None:
        """Say that this worker removed the candidate traffic of `model`."""
        self._words[_VETO] = table
        self._words[_VETO_MODEL] = model_hash(model)
        self._words[_VETO_REASON] = int(reason)

    def clear_veto(self) -> None:
        """Take the veto back."""
        self._words[_VETO_REASON] = 0

    def count(self, arm: int, micros: int, rows: int, *, error: bool = False, fallback: bool = False) -> None:
        """Count one request of an arm (its place in `ARMS`) that took `micros`."""
        words, base = self._words, _ARM + arm * _ARM_WORDS
        words[base] += 1
        words[base + _ROWS] += rows
        words[base + _MICROS] += micros
        words[base + _BUCKETS + bucket_of(micros)] += 1
        if error:
            words[base + _ERRORS] += 1
        if fallback:
            words[base + _FALLBACKS] += 1

    def name_store(self, store: str) -> None:
        """Say which online store this worker reads."""
        self._words[_STORE + _STORE_KIND] = STORES.index(store) if store in STORES else 0

    def count_read(self, micros: int, state: str = "") -> None:
        """Count one read of a request's features; `state` is "error", "defaulted", "stale" or "" for a good one."""
        words = self._words
        words[_STORE + _STORE_MICROS] += micros
        words[_STORE + _STORE_BUCKETS + bucket_of(micros)] += 1
        if state:
            words[_STORE + _STATES[state]] += 1

    def store_totals(self) -> StoreTotals:
        """Return what reading the online store took."""
        w = self._words[_STORE : _STORE + _STORE_BUCKETS + BUCKET_COUNT].tolist()
        return StoreTotals(STORES[w[_STORE_KIND]] or "none", w[_STORE_MICROS], w[_STORE_ERRORS], w[_STORE_DEFAULTED],
                           w[_STORE_STALE], tuple(w[_STORE_BUCKETS:]))  # fmt: skip

    def add(self, counter: Counter, n: int = 1) -> None:
        """Add to one of the worker's totals."""
        self._words[_COUNTERS + counter] += n

    def total(self, counter: Counter) -> int:
        """Return one of the worker's totals."""
        return int(self._words[_COUNTERS + counter])

    def count_shadow(self, *, sent: int = 0, dropped: int = 0) -> None:
        """Count shadow rows sent and dropped."""
        self._words[_SHADOW_SENT] += sent
        self._words[_SHADOW_DROPPED] += dropped

    def count_log_dropped(self, records: int) -> None:
        """Count records that the log could not take."""
        self._words[_LOG_DROPPED] += records

    @property
    def shadow_sent(self) -> int:
        """Shadow rows sent."""
        return int(self._words[_SHADOW_SENT])

    @property
    def shadow_dropped(self) -> int:
        """Shadow rows dropped under pressure."""
        return int(self._words[_SHADOW_DROPPED])

    @property
    def log_dropped(self) -> int:
        """Records that the log could not take."""
        return int(self._words[_LOG_DROPPED])

    def totals(self, arm: int) -> ArmTotals:
        """Return one arm's totals."""
        base = _ARM + arm * _ARM_WORDS
        w = self._words[base : base + _ARM_WORDS].tolist()
        return ArmTotals(w[0], w[_ROWS], w[_ERRORS], w[_FALLBACKS], w[_MICROS], tuple(w[_BUCKETS:]))


class SharedMap:
    """The mapped file: header and slots; `words` is all of it, for those whose words of the header are `H_...`."""

    def __init__(self, memory: mmap.mmap) -> None:
        """Wrap mapped memory; use `create`, `open` or `in_memory`."""
        self._memory = memory
        self.words = memoryview(memory).cast("q")
        self._slots = [Slot(self.words[_HEADER + i * _WORDS : _HEADER + (i + 1) * _WORDS], i) for i in range(len(self))]

    @classmethod
    def create(cls, path: Path, *, slots: int = 32) -> SharedMap:
        """Open the map at `path`, or make it; a map of another layout or with fewer slots is replaced.

        A map that is kept keeps its totals, its wanted table and its domain time.
        """
        with contextlib.suppress(FileNotFoundError, IntegrityError, Unavailable):
            found = cls.open(path)
            if len(found) >= slots:
                return found
            found.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        words = [0] * _HEADER
        words[_H_MAGIC], words[_H_LAYOUT], words[_H_SLOTS] = _MAGIC, _LAYOUT, slots
        with fresh.open("wb") as file:
            file.write(b"".join(w.to_bytes(8, "little") for w in words) + bytes(slots * _WORDS * 8))
        fresh.rename(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> SharedMap:
        """Open an existing map.

        Raises:
            Unavailable: there is no map at `path`.
            IntegrityError: the file is no map of this layout.
        """
        try:
            file = path.open("r+b")
        except FileNotFoundError as error:
            raise Unavailable(f"there is no shared map at {path}; start the node with: flyball up") from error
        with file:
            head = file.read(24)
            magic, layout, slots = (int.from_bytes(head[i : i + 8], "little") for i in (0, 8, 16))
            size = os.fstat(file.fileno()).st_size
            if magic != _MAGIC or layout != _LAYOUT or size != (_HEADER + slots * _WORDS) * 8:
                raise IntegrityError(f"{path} is no shared map of layout {_LAYOUT}; remove it while nothing runs")
            return cls(mmap.mmap(file.fileno(), size))

    @classmethod
    def in_memory(cls, *, slots: int = 1) -> SharedMap:
        """Make a map that only this process sees; for tests and temporary projects."""
        memory = mmap.mmap(-1, (_HEADER + slots * _WORDS) * 8)
        memory[16:24] = slots.to_bytes(8, "little")
        return cls(memory)

    def __len__(self) -> int:
        return int(self.words[_H_SLOTS])

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def slot(self, index: int) -> Slot:
        """Return slot `index`."""
        return self._slots[index]

    @property
    def table_version(self) -> int:
        """The routing table that every worker shall serve, 0 for none."""
        return int(self.words[_H_TABLE])

    @table_version.setter
    def table_version(self, version: int) -> None:
        self.words[_H_TABLE] = version

    @property
    def domain_time(self) -> int:
        """Simulated domain time in µs, 0 for the machine's time."""
        return int(self.words[H_TIME])

    @domain_time.setter
    def domain_time(self, at: int) -> None:
        self.words[H_TIME] = at

    @property
    def kill_switch(self) -> bool:
        """Whether all candidate traffic is off."""
        return bool(self.words[_H_KILL])

    @kill_switch.setter
    def kill_switch(self, on: bool) -> None:
        self.words[_H_KILL] = int(on)

    @property
    def degraded(self) -> bool:
        """Whether control cannot do its work, so that what is served cannot be changed now; control says so."""
        return bool(self.words[_H_DEGRADED])

    @degraded.setter
    def degraded(self, on: bool) -> None:
        self.words[_H_DEGRADED] = int(on)

    def vetoes(self, model: str, *, table: int | None = None) -> list[str]:
        """Say which live workers vetoed the candidate of `model` (under `table`), and why, one sentence each."""
        mine = [(s, s.veto) for s in self._slots if s.pid]
        return [
            f"worker {s.index} sends the candidate nothing: {v.reason.words}"
            for s, v in mine
            if v is not None and v.model == model_hash(model) and (table is None or v.table == table)
        ]

    def close(self) -> None:
        """Unmap."""
        for slot in self._slots:
            slot._words.release()
        self.words.release()
        self._memory.close()


def model_hash(model: str) -> int:
    """Return the 63-bit number that stands for a model's name in a slot."""
    return xxhash.xxh3_64_intdigest(model.encode()) >> 1
