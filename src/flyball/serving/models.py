"""Versions that a worker keeps loaded, by digest, warmed before their first request.

A trusted version runs in the worker; an untrusted one is asked of its host process. The surprise: also for an untrusted
version the worker reads the manifest, because it must know which features to fetch, but never the model's own file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from flyball.errors import FlyballError, Unavailable
from flyball.features.callables import known, refs_of
from flyball.features.spec import FeatureService
from flyball.registry.artifacts import read_manifest
from flyball.rollout.routing import VersionRef
from flyball.serving.batcher import ANY, Batcher, check_output

__all__ = ["Host", "Loaded", "ModelCache", "Predictor"]

_WARM_TRIES = 5


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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version ready to answer."""

    ref: VersionRef
    service: FeatureService
    batcher: Batcher
    sample: np.ndarray  # a row or more the model was trained on
    host: Host | None = None
    classes: tuple[str | int | float | bool, ...] | None = None  # of a classifier, in the order of its probabilities

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
    """

    def __init__(
        self,
        load: Callable[[VersionRef], Predictor],
        connect_host: Callable[[VersionRef], Host] | None = None,
        *,
        root: Path = Path(),
        patience: float = 20.0,
    ) -> None:
        self._load = load
        self._connect = connect_host
        self._root = root
        self._patience = patience
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

    def resident(self, ref: VersionRef) -> Loaded | None:
        """Return a version if it is loaded."""
        return self._loaded.get((ref.digest, ref.trusted))

    def eager(self, refs: Iterable[VersionRef]) -> list[VersionRef]:
        """Return which of a table's champions to load at once; without a limit of memory all of them."""
        return list(refs)

    def admit(self, ref: VersionRef, *, beside: Iterable[VersionRef] = ()) -> int:
        """Return the bytes that loading a version takes; raises Refused when it does not fit beside others."""
        return 0

    def pin(self, refs: Iterable[VersionRef]) -> None:
        """Keep versions loaded whatever memory they take."""

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
        with ThreadPoolExecutor(1, thread_name_prefix="flyball-load") as thread:
            loaded = await loop.run_in_executor(thread, self._prepare, ref)
        self._loaded[ref.digest, ref.trusted] = loaded
        return loaded

    def _prepare(self, ref: VersionRef) -> Loaded:
        folder = self._root / ref.path
        manifest = read_manifest(folder, ref.digest)
        service, classes = manifest.service, getattr(manifest, "classes", None)
        _bring_functions(service)
        sample = _sample(folder, len(service.names))
        if ref.trusted:
            predictor = self._load(ref)
            cost, columns = _warm(predictor, sample, ref)
            return Loaded(ref, service, Batcher(predict=predictor.predict, cost=cost, columns=columns), sample,
                          classes=classes)  # fmt: skip
        if self._connect is None:
            raise FlyballError(f"version {ref.version} is not trusted in this process and there is no host for it")
        host = self._connect(ref)
        return Loaded(ref, service, Batcher(remote=host.predict, cost=0.002, columns=ANY), sample, host, classes)


def _bring_functions(service: FeatureService) -> None:
    """Import the Python functions that the version's features call, from its code snapshot, before any request."""
    computed = [feature for view in service.views for feature in view.features]
    for ref in refs_of([*service.columns, *computed]):
        known(ref)


def _sample(folder: Path, columns: int) -> np.ndarray:
    path = folder / "sample.npy"
    rows = np.load(path, allow_pickle=False) if path.exists() else np.zeros((1, columns))
    return np.ascontiguousarray(rows.reshape(len(rows), -1)[:8], dtype=np.float64)


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
