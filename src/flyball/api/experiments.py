"""Experiments over the admin API: list, show, start, stop. It calls the project's methods and decides nothing.

The surprise: POST /v1/experiments takes a whole design or only the name of a defined one; either way the design that is
stored is the one that answers say the digest of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request

from flyball.errors import BadRequest, DefinitionError, UnknownName

if TYPE_CHECKING:
    from flyball.api.app import Controller

__all__ = ["ExperimentsApi"]


class _Start(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    design: dict[str, Any] | None = None


class _Stop(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    ship: str = ""


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class ExperimentsApi:
    """Answer for the experiments of a control process.

    Args:
        control: The control process.
        body: Reads a request's body.
    """

    def __init__(self, control: Controller, body: Callable[[Request, type[Any]], Awaitable[Any]]) -> None:
        self._control = control
        self._body = body

    async def list(self, request: Request) -> Any:
        """All experiments; archived ones too with ?archived=1."""
        archived = request.query_params.get("archived") in {"1", "true"}
        experiments = self._control.project.experiments
        return await self._control.work(lambda: experiments.list(archived=archived))

    async def show(self, request: Request) -> Any:
        """One experiment: state, exposures, sample ratio, verdict so far, events."""
        handle = await self._control.work(lambda: self._control.project.experiments[request.path_params["name"]])

        def read() -> dict[str, Any]:
            shown = handle.status()
            events = [] if shown["state"] == "defined" else handle.events()
            return {**shown, "design": handle.design.to_dict(), "events": events}

        return await self._control.work(read)

    async def start(self, request: Request) -> Any:
        """Start a defined experiment by its name, or a design."""
        from flyball.project.experiment_files import experiment_of

        asked: _Start = await self._body(request, _Start)
        if (asked.name is None) == (asked.design is None):
            raise BadRequest("send either the name of a defined experiment or a design")
        experiments = self._control.project.experiments
        name, design = asked.name or "", asked.design

        def start() -> Any:
            if design is None:
                return experiments[name].start(actor="api")
            return experiments.start(experiment_of(design), actor="api")

        try:
            return await self._control.order(start)
        except UnknownName:
            raise  # no such experiment, version, value or column: 404
        except DefinitionError as error:
            raise BadRequest(str(error)) from error

    async def stop(self, request: Request) -> Any:
        """End an experiment, and ship an arm."""
        asked: _Stop = await self._body(request, _Stop)
        experiments, name = self._control.project.experiments, request.path_params["name"]
        return await self._control.order(lambda: experiments[name].stop(asked.reason, ship=asked.ship, actor="api"))

    async def archive(self, request: Request) -> Any:
        """Leave an ended experiment out of lists."""
        await self._body(request, _Nothing)
        experiments, name = self._control.project.experiments, request.path_params["name"]
        return await self._control.order(lambda: experiments[name].archive(actor="api"))
