"""Versions that a worker keeps loaded, by digest, warmed before their first request.

A trusted version runs in the worker; an untrusted one is asked of its host process. With a limit of memory the versions
that were not asked for longest are let go, never one that a rollout watches. The surprise: also for an untrusted
version the worker reads the manifest, because it must know which features to fetch, but never the model's own file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from flyball.errors import FlyballError, Refused, Unavailable
from flyball.features.callables import known, refs_of
from flyball.features.spec import FeatureService
from flyball.registry.artifacts import read_manifest
from flyball.registry.rows import read_rows
from flyball.rollout.routing import VersionRef
from flyball.serving.models.batcher import Batcher
from flyball.serving.models.memory import Held, available, estimate, victims
from flyball.serving.models.outputs import ANY, check_output

__all__ = ["Host", "Loaded", "ModelCache", "Predictor", "Watched"]

_WARM_TRIES = 5
_EAGER = 64  # champions loaded with a table when memory is limited; the others come with their first request
_LOADS = 4  # versions loaded at a time
Key = tuple[str, bool]


class Predictor(Protocol):
    """A model loaded in this process."""

    def predict(self, matrix: np.ndarray, /) -> np.ndarray:
        """Return one answer per row of a float64 matrix."""
        ...


class Host(Protocol):
    """A model in another process.

    `predict` raises Unavailable when that process is gone, DeadlineExceeded when it is late, another FlyballError when
    the model failed.
    """

    async def predict(self, matrix: np.ndarray, deadline: float, /) -> np.ndarray:
        """Return one answer per row before `deadline` (monotonic seconds)."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A host that tells when it goes away, also when nobody asks it anything."""

    def when_lost(self, lost: Callable[[], None], /) -> None:
        """Have `lost` called in the event loop, at once."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version ready to answer."""

    ref: VersionRef
    service: FeatureService
    batcher: Batcher
    sample: np.ndarray  # a row or more the model was trained on
    host: Host | None = None
    classes: tuple[str | int | float | bool, ...] | None = None  # of a classifier, in the order of its probabilities
    memory: int = 0  # bytes that it takes in this process
    kind: str = ""  # class of the model, or its format where that is all there is
    format: str = ""  # of its file
    expected: np.ndarray | None = None  # answers to `sample`, as registered
    born: int = 0  # perf_counter_ns

    async def probe(self, *, patience: float) -> None:
        """Ask the host for the sample's answer until it comes; raises Unavailable after `patience` seconds."""
        if self.host is None:
            return
        until = time.monotonic() + patience
        while True:
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0.05)):
                    await self.host.predict(self.sample[:1], until)
            except (Unavailable, TimeoutError) as error:
                if time.monotonic() >= until:
                    raise Unavailable(
                        f"the host of {self.ref.version} gave no answer in {patience:g} s: {error}"
                    ) from error
                await asyncio.sleep(0.02)
            else:
                return

    def close(self) -> None:
        """Give everything back."""
        self.batcher.close()
        if self.host is not None:
            self.host.close()


class ModelCache:
    """Load versions once and keep them until they are retired.

    Args:
        load: Loads a trusted version; called in a thread. Usually `registry.artifacts.load_version`.
        connect_host: Returns the host of an untrusted version; without it untrusted versions cannot be served.
        root: What a relative path of a VersionRef is relative to.
        patience: Seconds a host may take to answer for the first time.
        memory: Bytes that all loaded versions together may take in this process, 0 for no limit.

    `on_evict` is called in the event loop when a version was let go for memory. It is not closed, so that requests
    under way finish on it.
    """

    def __init__(
        self,
        load: Callable[[VersionRef], Predictor],
        connect_host: Callable[[VersionRef], Host] | None = None,
        *,
        root: Path = Path(),
        patience: float = 20.0,
        memory: int = 0,
    ) -> None:
        self._load = load
        self._connect = connect_host
        self._root = root
        self._patience = patience
        self._limit = memory
        self._pinned: set[Key] = set()
        self._gate = asyncio.Semaphore(_LOADS)
        self.on_evict: Callable[[VersionRef], None] | None = None
        self._loaded: dict[tuple[str, bool], Loaded] = {}
        self._loading: dict[tuple[str, bool], asyncio.Task[Loaded]] = {}

    async def get(self, ref: VersionRef) -> Loaded:
        """Return a version, loading and warming it when it is not there.

        Raises:
            FlyballError: it cannot be loaded, is not what was registered, or cannot answer its sample.
        """
        key = (ref.digest, ref.trusted)
        found = self._loaded.get(key)
        if found is not None:
            return found
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._bring(ref))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        return await asyncio.shield(task)

    @property
    def memory(self) -> int:
        """Bytes that the loaded versions take."""
        return sum(each.memory for each in self._loaded.values())

    def resident(self, ref: VersionRef) -> Loaded | None:
        """Return a version if it is loaded."""
        return self._loaded.get((ref.digest, ref.trusted))

    def eager(self, refs: Iterable[VersionRef]) -> list[VersionRef]:
        """Return which of a table's champions to load at once: all, or with a limit of memory a warm set.

        That is what is loaded already, because it was asked lately, and the first others, at most 64 together and half
        of the memory.
        """
        wanted = list(refs)
        if not self._limit:
            return wanted
        chosen = [ref for ref in wanted if self.resident(ref) is not None]
        room = self._limit // 2 - sum(self._loaded[ref.digest, ref.trusted].memory for ref in chosen)
        for ref in wanted:
            if len(chosen) >= _EAGER or room <= 0:
                break
            if self.resident(ref) is None:
                room -= self._needs(ref)
                if room >= 0:
                    chosen.append(ref)
        return chosen

    def admit(self, ref: VersionRef, *, beside: Iterable[VersionRef] = ()) -> int:
        """Return the bytes that loading a version takes, 0 when it is loaded.

        Args:
            ref: The version.
            beside: Versions that go on serving while it is loaded.

        Raises:
            Refused: it does not fit beside those and the pinned ones, under the limit or into the machine's memory.
        """
        if self.resident(ref) is not None:
            return 0
        needed = self._needs(ref)
        if self._limit and victims(needed, self._limit, self._held(beside)) is None:
            raise Refused(
                f"version {ref.version} needs {needed / 1e6:.3g} MB beside what must stay loaded, and models may take "
                f"{self._limit / 1e6:.3g} MB in a worker; raise server.model_memory, or retire what is kept warm"
            )
        free = available()
        if free is not None and needed > free:
            raise Refused(
                f"version {ref.version} needs {needed / 1e6:.3g} MB, and this machine has {free / 1e6:.3g} MB left; "
                f"use a smaller model or a larger machine"
            )
        return needed

    def pin(self, refs: Iterable[VersionRef]) -> None:
        """Keep these versions loaded whatever memory is wanted; those pinned before no longer are."""
        self._pinned = {(ref.digest, ref.trusted) for ref in refs}

    def _needs(self, ref: VersionRef) -> int:
        folder = self._root / ref.path
        return estimate(folder, read_manifest(folder, ref.digest), trusted=ref.trusted)

    def _held(self, beside: Iterable[VersionRef] = ()) -> list[Held]:
        stays = self._pinned | {(ref.digest, ref.trusted) for ref in beside}
        return [
            Held(key, each.memory, max(each.batcher.used, each.born), key in stays or not key[1])
            for key, each in self._loaded.items()
        ]

    def _make_room(self, needed: int) -> None:
        """Let go of what was not asked for longest; a pinned version over the limit stays, admit() refused before."""
        for key in victims(needed, self._limit, self._held()) or ():
            gone = self._loaded.pop(key)
            if self.on_evict is not None:
                self.on_evict(gone.ref)

    def retain(self, refs: Iterable[VersionRef]) -> None:
        """Close every version that is not among `refs`."""
        keep = {(ref.digest, ref.trusted) for ref in refs}
        for key in [k for k in self._loaded if k not in keep]:
            self._loaded.pop(key).close()

    def close(self) -> None:
        """Close every version."""
        self.retain(())

    async def _bring(self, ref: VersionRef) -> Loaded:
        loop = asyncio.get_running_loop()
        async with self._gate:
            with ThreadPoolExecutor(1, thread_name_prefix="flyball-load") as thread:
                loaded = await loop.run_in_executor(thread, self._prepare, ref)
        if self._limit:
            self._make_room(loaded.memory)
        self._loaded[ref.digest, ref.trusted] = loaded
        return loaded

    def _prepare(self, ref: VersionRef) -> Loaded:
        folder = self._root / ref.path
        manifest = read_manifest(folder, ref.digest)
        service = manifest.service
        _bring_functions(service)
        sample = _sample(folder, len(service.names))
        common: dict[str, Any] = {
            "classes": manifest.classes, "memory": estimate(folder, manifest, trusted=ref.trusted),
            "kind": manifest.model_class or manifest.format, "format": manifest.format,
            "expected": _expected(folder, len(sample)), "born": time.perf_counter_ns(),
        }  # fmt: skip
        if ref.trusted:
            predictor = self._load(ref)
            cost, columns = _warm(predictor, sample, ref)
            ask = getattr(predictor, "direct", predictor.predict)
            return Loaded(ref, service, Batcher(predict=ask, cost=cost, columns=columns), sample, **common)
        if self._connect is None:
            raise FlyballError(f"version {ref.version} is not trusted in this process and there is no host for it")
        host = self._connect(ref)
        return Loaded(ref, service, Batcher(remote=host.predict, cost=0.002, columns=ANY), sample, host, **common)


def _bring_functions(service: FeatureService) -> None:
    """Import the Python functions that the version's features call, from its code snapshot, before any request."""
    computed = [feature for view in service.views for feature in view.features]
    for ref in refs_of([*service.columns, *computed]):
        known(ref)


def _sample(folder: Path, columns: int) -> np.ndarray:
    path = folder / "sample.npy"
    rows = read_rows(path) if path.exists() else np.zeros((1, columns))
    return np.ascontiguousarray(rows.reshape(len(rows), -1)[:8], dtype=np.float64)


def _expected(folder: Path, rows: int) -> np.ndarray | None:
    path = folder / "expected.npy"
    return np.asarray(read_rows(path)[:rows], dtype=np.float64) if path.exists() else None


def _warm(predictor: Predictor, sample: np.ndarray, ref: VersionRef) -> tuple[float, int | None]:
    """Return (seconds of a one-row call, answer columns or None for one number a row)."""
    best = float("inf")
    try:
        for _ in range(_WARM_TRIES):
            start = time.perf_counter()
            out = check_output(predictor.predict(sample[:1]), 1, ANY)
            best = min(best, time.perf_counter() - start)
    except Exception as error:
        raise FlyballError(f"version {ref.version} cannot answer its own sample row: {error}") from error
    return best, out.shape[1] if out.ndim == 2 else None
