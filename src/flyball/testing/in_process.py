"""An HTTP client for a gateway in this process: no port, no server, the same bytes.

The surprise: the synchronous client owns an event loop in a thread, and the gateway lives in it; `call` runs a
coroutine there, for example a swap.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flyball.clock import ManualClock
from flyball.errors import FlyballError, MissingExtra
from flyball.rollout.routing import VersionRef
from flyball.serving.gateway import Gateway
from flyball.units import to_micros

try:
    import httpx
except ImportError as error:
    raise MissingExtra.of("the in-process client", "standard") from error

if TYPE_CHECKING:
    import numpy as np

    from flyball.project import Project
    from flyball.serving.contributions.types import Explained

__all__ = ["GatewayClient", "async_client", "client", "project_gateway"]

T = TypeVar("T")
_BASE = "http://gateway"


class GatewayClient(httpx.Client):
    """An httpx.Client whose requests are answered by `gateway` in this process."""

    def __init__(self, gateway: Gateway, *, project: Project | None = None, key: str | None = None) -> None:
        """Answer with `gateway`; with a `project`, follow its routing table."""
        self.gateway = gateway
        self._project = project
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="flyball-client")
        self._thread.start()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        super().__init__(transport=_Bridge(self), base_url=_BASE, headers=headers)

    @property
    def transport(self) -> httpx.BaseTransport:
        """What `fb.Client(url, transport=...)` takes to ask this gateway."""
        return self._transport

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the gateway's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def infer(self, model: str, rows: Sequence[Mapping[str, Any]], *, unit: str | None = None) -> dict[str, Any]:
        """Send rows as `/predict` and return the answer.

        Raises:
            FlyballError: the gateway refused or failed; its sentence.
        """
        body: dict[str, Any] = {"model": model, "rows": [dict(row) for row in rows]}
        if unit is not None:
            body["unit"] = unit
        response = self.post("/predict", json=body)
        answer: dict[str, Any] = response.json()
        if response.status_code != 200:
            raise FlyballError(str(answer.get("error", response.text)))
        return answer

    def refresh(self) -> None:
        """Serve the project's routing table in force, if it is another one."""
        if self._project is None:
            return
        clock = self._project.clock
        if isinstance(clock, ManualClock):
            self.gateway.shared.domain_time = to_micros(clock.now())
        table = self._project.database.routing.current()
        if self.gateway.table is None or table.version != self.gateway.table.version:
            self.gateway.shared.table_version = table.version
            self.call(self.gateway.swap(table))

    def close(self) -> None:
        """Close the gateway (its log is written) and end the loop."""
        if self._loop.is_closed():
            return
        super().close()
        self.call(self.gateway.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __exit__(self, *exc: Any) -> None:
        self.close()


class _Bridge(httpx.BaseTransport):
    """Hand a request to the gateway's event loop."""

    def __init__(self, owner: GatewayClient) -> None:
        self._owner = owner
        self._inner = httpx.ASGITransport(app=owner.gateway)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._owner.refresh()
        request.read()
        return self._owner.call(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        body = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=body)


class _LocalHost:
    """Stand in for a host process: an untrusted version in this process, for projects without processes."""

    def __init__(self, load: Any, ref: VersionRef) -> None:
        self._model = load(ref)

    async def predict(self, matrix: np.ndarray, deadline: float) -> np.ndarray:
        answer: np.ndarray = await asyncio.to_thread(self._model.predict, matrix)
        return answer

    def close(self) -> None:
        """There is nothing to hang up."""


class _LocalExplainer:
    """Stand in for the process that explains a version: a thread of this one, for projects without processes."""

    def __init__(self, load: Any, ref: VersionRef) -> None:
        self._load, self._ref = load, ref
        self._explainer: Any = None

    async def explain(self, matrix: np.ndarray, deadline: float) -> Explained:
        return await asyncio.to_thread(self._explain, matrix, deadline)

    def _explain(self, matrix: np.ndarray, deadline: float) -> Explained:
        from flyball.serving.contributions import Explainer

        if self._explainer is None:
            self._explainer = Explainer.of(self._load(self._ref))
        found: Explained = self._explainer.explain(matrix, deadline)
        return found

    def close(self) -> None:
        """There is nothing to hang up."""


def client(target: Gateway | Project, *, key: str | None = None) -> GatewayClient:
    """Return a synchronous in-process client of a gateway or of a project.

    Example:
        >>> with client(project) as http:                                           # doctest: +SKIP
        ...     http.infer("eta", [{"pickup_zone": 74, "distance_miles": 2.1}])["predictions"]
        [11.8]
    """
    if isinstance(target, Gateway):
        return GatewayClient(target, key=key)
    made = GatewayClient(project_gateway(target), project=target, key=key)
    made.refresh()
    return made


def async_client(gateway: Gateway, *, key: str | None = None) -> httpx.AsyncClient:
    """Return an asynchronous in-process client; the gateway lives in the caller's event loop."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(transport=_Turning(app=gateway), base_url=_BASE, headers=headers)


class _Turning(httpx.ASGITransport):
    """Let the loop turn once for each request, as a socket would: the gateway may answer without ever waiting."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return await super().handle_async_request(request)


def project_gateway(project: Project) -> Gateway:
    """Return a gateway over a project's own store, log and artifacts, without any process."""
    from flyball.registry.artifacts import load_version
    from flyball.serving.http.access import AccessFile
    from flyball.serving.log.writer import LogWriter
    from flyball.serving.models.loading import ModelCache

    layout = project.layout

    def load(ref: VersionRef) -> Any:
        key = layout.signing_key.read_bytes() if layout.signing_key.exists() else b""
        return load_version(layout.root / Path(ref.path), ref.digest, signing_key=key)

    async def push(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        result = project.features.push(source, rows)
        return {"accepted": result.accepted, "rejected": result.rejected, "duplicates": result.duplicates,
                "sequence": result.sequence}  # fmt: skip

    async def repository(action: str, model: str, actor: str) -> dict[str, Any]:
        from flyball.project.repository import change_service

        return await asyncio.to_thread(change_service, project, action, model, actor=actor)  # type: ignore[arg-type]

    return Gateway(
        ModelCache(
            load, lambda ref: _LocalHost(load, ref), root=layout.root, memory=project.settings.server.model_memory
        ),
        store=project.features.serving_store(),
        log=LogWriter(layout.log / "w0"),
        push=push,
        access=None if project.is_temporary else AccessFile(layout.access),
        personal=None if project.is_temporary else project.personal_keys,
        store_name=project.settings.online.store,
        max_body=project.settings.server.max_body,
        max_rows=project.settings.server.max_rows,
        max_depth=project.settings.server.max_depth,
        repository=repository,
        explainers=lambda ref: _LocalExplainer(load, ref),
    )
