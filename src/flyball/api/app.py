"""The admin API of the control process: JSON in, JSON out; it calls the project's methods and decides nothing.

The surprise: a POST that a browser sends from another site is refused even on loopback. A page somebody has open must
not be able to start a rollout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from flyball.api.experiments import ExperimentsApi
from flyball.api.features import MAX_BODY, HistoryBody, OnlineBody, answer_history, answer_online, views_read
from flyball.api.guarded import Auditor, Endpoint, actor_of, guarded, http_error, path_of, view_of
from flyball.errors import BadRequest, InputError, UnknownName

if TYPE_CHECKING:
    from flyball.project import Project
    from flyball.serving.http.access import AccessFile

__all__ = ["Controller", "create_app"]

_T = TypeVar("_T")
_ORDERS = ("pause", "resume", "approve", "promote", "abort")
_MAX_BODY = 1_000_000
_READS_AT_ONCE = 2


class Controller(Protocol):
    """What the API needs of the control process."""

    @property
    def project(self) -> Project:
        """The open project; raises Unavailable while there is none."""
        ...

    def health(self) -> dict[str, Any]:
        """Say how things stand."""
        ...

    async def work(self, call: Callable[[], _T]) -> _T:
        """Run something that reads, off the event loop."""
        ...

    async def order(self, call: Callable[[], _T]) -> _T:
        """Run something that changes things, between two passes."""
        ...

    async def set_clock(self, to: datetime) -> dict[str, Any]:
        """Step simulated domain time and do everything due."""
        ...


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    to: datetime


class _Start(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: str
    skip_shadow: bool = False
    reason: str = ""
    force: bool = False
    dry_run: bool = False
    per_day: float | None = None  # for a dry run


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    force: bool = False  # of a promotion: also while the calendar freezes


class _Flag(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    on: bool | None = None
    shares: list[tuple[str | bool | int | float, float]] = []  # (value, share): a JSON object's keys are texts only
    reason: str = ""


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    shares: dict[str, float]
    holdout: float | None = None
    reason: str = ""


class _Switch(msgspec.Struct, forbid_unknown_fields=True):
    version: str | None = None
    reason: str = ""


def create_app(control: Controller, *, key: bytes | None = None, access: AccessFile | None = None) -> Starlette:
    """Return the ASGI application.

    Args:
        control: The control process.
        key: What callers must send as `Authorization: Bearer KEY`; None for no key.
        access: Keys with roles: any may read, the features only of views that name the role or none; only
            "admin" changes things.
    """
    api = _Api(control, access)
    experiments = ExperimentsApi(control, _body)
    routes = [
        ("/health", "GET", api.health),
        ("/v1/clock", "POST", api.clock),
        ("/v1/rollouts", "GET", api.rollouts),
        ("/v1/rollouts", "POST", api.start),
        ("/v1/rollouts/{id}", "GET", api.rollout),
        ("/v1/rollouts/{id}/{order}", "POST", api.order),
        ("/v1/models", "GET", api.models),
        ("/v1/features", "GET", api.features),
        ("/v1/features/online", "POST", api.online),
        ("/v1/features/online", "GET", api.feature),  # a view may have this name
        ("/v1/features/history", "POST", api.history),
        ("/v1/features/history", "GET", api.feature),
        ("/v1/features/{name}", "GET", api.feature),
        ("/v1/flags", "GET", api.flags),
        ("/v1/flags", "POST", api.set_flag),
        ("/v1/models/{name}/split", "POST", api.split),
        ("/v1/models/{name}/switch", "POST", api.switch),
        ("/v1/experiments", "GET", experiments.list),
        ("/v1/experiments", "POST", experiments.start),
        ("/v1/experiments/{name}", "GET", experiments.show),
        ("/v1/experiments/{name}/stop", "POST", experiments.stop),
        ("/v1/experiments/{name}/archive", "POST", experiments.archive),
        ("/v1/alerts", "GET", api.alerts),
        ("/v1/loop/{model}", "GET", api.loop),
    ]
    by_path: dict[str, dict[str, Endpoint]] = {}
    for path, method, endpoint in routes:
        by_path.setdefault(path, {})[method] = endpoint
    auditor = Auditor(control)
    return Starlette(
        routes=[Route(p, guarded(p, m, key, access, auditor), methods=[*m]) for p, m in by_path.items()],
        exception_handlers={HTTPException: http_error},
    )


class _Api:
    def __init__(self, control: Controller, access: AccessFile | None) -> None:
        self._control = control
        self._access = access
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)

    async def health(self, _: Request) -> Any:
        return self._control.health()

    async def clock(self, request: Request) -> Any:
        to = (await _body(request, _Clock)).to
        return await self._control.set_clock(to if to.tzinfo is not None else to.replace(tzinfo=UTC))

    async def rollouts(self, request: Request) -> Any:
        model, active = request.query_params.get("model"), request.query_params.get("active") in {"1", "true"}
        store = self._control.project.database.rollouts
        found = await self._control.work(lambda: store.list(model, active=active))
        return [{"spec": spec, "status": status} for spec, status in found]

    async def rollout(self, request: Request) -> Any:
        """One rollout: spec, status, what its guardrails say and what happens next, and every event."""
        from flyball.project.releases import record

        project, name = self._control.project, request.path_params["id"]
        return await self._control.work(lambda: record(project, name))

    async def start(self, request: Request) -> Any:
        """Start a rollout; with dry_run only say how long it would take."""
        asked = await _body(request, _Start)
        project = self._control.project
        if asked.dry_run:
            return await self._control.work(
                lambda: project.rollout(asked.model, asked.version).expected(
                    per_day=asked.per_day, skip_shadow=asked.skip_shadow
                )
            )
        await self._control.order(
            lambda: project.rollout(asked.model, asked.version).start(
                skip_shadow=asked.skip_shadow,
                cause=asked.reason or "manual",
                actor=actor_of(request),
                force=asked.force,
            )
        )
        found = await self._control.work(lambda: project.database.rollouts.list(asked.model, active=True))
        return {"spec": found[-1][0], "status": found[-1][1]} if found else {}

    async def order(self, request: Request) -> Any:
        name, order = request.path_params["id"], request.path_params["order"]
        if order not in _ORDERS:
            raise UnknownName.of("order", order, _ORDERS)
        asked = await _body(request, _Order)
        if asked.force and order != "promote":
            raise InputError(f"force is for promote during a freeze; {order} needs none")
        options = {"actor": actor_of(request)} | ({"force": True} if asked.force else {})
        project = self._control.project

        def give() -> Any:
            _, status = project.database.rollouts.get(name)
            getattr(project.rollout(status.model, status.candidate), order)(asked.reason, **options)
            return project.database.rollouts.get(name)[1]

        return {"status": await self._control.order(give)}

    async def models(self, request: Request) -> Any:
        project = self._control.project

        def read() -> dict[str, Any]:
            return {name: project.database.versions.list(name) for name in project.applied.models}

        return await self._control.work(read)

    async def flags(self, _: Request) -> Any:
        """All flags in force."""
        return await self._control.work(self._control.project.flags.list)

    async def set_flag(self, request: Request) -> Any:
        """Switch a flag or change its shares."""
        asked, project = await _body(request, _Flag), self._control.project
        shares = dict(asked.shares)
        return await self._control.order(
            lambda: project.flags.set(asked.name, on=asked.on, shares=shares, reason=asked.reason, actor="api")
        )

    async def split(self, request: Request) -> Any:
        """Give versions shares of a model's units; none end the split."""
        asked, handle = await _body(request, _Split), self._control.project.models[request.path_params["name"]]
        return await self._control.order(
            lambda: handle.split(asked.shares, holdout=asked.holdout, reason=asked.reason, actor="api")
        )

    async def switch(self, request: Request) -> Any:
        """Exchange the champion."""
        asked, handle = await _body(request, _Switch), self._control.project.models[request.path_params["name"]]
        return await self._control.order(
            lambda: handle.switch(asked.version, reason=asked.reason or "switched by the API", actor="api")
        )

    async def features(self, request: Request) -> Any:
        """All applied views; with ?search=WORDS only those that match, best first."""
        catalog, words = self._control.project.features.catalog, request.query_params.get("search")
        return await self._control.work(catalog.views if words is None else lambda: catalog.search(words))

    async def feature(self, request: Request) -> Any:
        """One view as it is now, with what it was before and what came of it."""
        catalog, name = self._control.project.features.catalog, view_of(request)
        return await self._control.work(
            lambda: catalog.show(name) | {"versions": catalog.versions(name), "lineage": catalog.lineage(name)}
        )

    async def online(self, request: Request) -> Any:
        """Newest values of entities."""
        body = await _body(request, OnlineBody, MAX_BODY)
        return await self._read(request, body.names, lambda project: answer_online(project, body))

    async def history(self, request: Request) -> Any:
        """What was known at past times."""
        body = await _body(request, HistoryBody, MAX_BODY)
        return await self._read(request, body.names, lambda project: answer_history(project, body))

    async def _read(self, request: Request, names: list[str], call: Callable[[Project], _T]) -> _T:
        """Read features off the event loop, a few at once, when the caller's role may."""
        project = self._control.project
        async with self._reads:
            views = await self._control.work(lambda: views_read(project, names))
            if self._access is not None:
                self._access.current.require_read(request.state.role, views)
            return await self._control.work(lambda: call(project))

    async def alerts(self, request: Request) -> Any:
        text = request.query_params.get("since")
        since = None if text is None else _time(text)
        store = self._control.project.database.monitors
        return await self._control.work(lambda: store.alerts(since=since))

    async def loop(self, request: Request) -> Any:
        model, store = request.path_params["model"], self._control.project.database.loop

        def read() -> dict[str, Any]:
            self._control.project.applied.model(model)
            return {
                "model": model,
                "frozen": store.frozen(model),
                "triggers": store.triggers(model),
                "story": store.story(model),
            }

        return await self._control.work(read)


async def _body(request: Request, kind: type[_T], most: int = _MAX_BODY) -> _T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise BadRequest(f"the body is larger than {most} bytes", 413)
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(
            f"the body is not what {request.method} {path_of(request)} takes: {error}; it takes {_names(kind)}"
        ) from error


def _names(kind: type) -> str:
    """Say which fields a body has; those that may be left out with a question mark."""
    return ", ".join(f.name if f.required else f"{f.name}?" for f in msgspec.structs.fields(kind))


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequest(f"since={text!r} is no time; write ISO 8601, such as 2020-03-11T04:00:00Z") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
