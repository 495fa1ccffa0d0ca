"""What a project's module says exists: models, and with them views, sources and entities.

The surprise: a `Model` is only a declaration. Its parts belong to the rooms they come from; this module is where one
name holds them together, above all rooms and below the project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flyball import units
from flyball.datasets.columns import check_log
from flyball.errors import DefinitionError, DuplicateName, UnknownName
from flyball.experiments.design.types import Experiment
from flyball.features.definitions import FeatureService as NamedService
from flyball.features.definitions import FeatureView, Field, Source, Transform, ViewSelection
from flyball.features.definitions.services import expand
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService, SourceSpec, ViewSpec
from flyball.rollout.routing import Flag, ServingSpec
from flyball.training.plan import TrainingPlan

if TYPE_CHECKING:
    from flyball.datasets.definitions import Examples, Label
    from flyball.gates.checks import GateSpec
    from flyball.loop.types import RetrainSpec
    from flyball.monitoring.types import MonitorSpec
    from flyball.rollout.types import RolloutSpec

__all__ = ["Definitions", "Model", "Params"]

Params = dict[str, Any]
T = TypeVar("T")


class Model:
    """Declare a model: what it learns from, what must hold before and while it serves, when it retrains.

    Args:
        name: The model's name, part of URLs.
        examples: One row per past request.
        features: Views (or selections of them), feature services, fields and request-time expressions, in the order of
            the matrix's columns.
        label: What is predicted, and how long after the request it is known.
        train: `train(data: TrainingSet, params: dict) -> object with predict(X)`.
        params: Handed to `train`.
        train_on: How far back from now examples are taken ("7d").
        holdout: Newest share of the examples by time that no training sees ("20%").
        gates: Checks a version must pass before it may be exposed.
        rollout: How a new version is released; the default is shadow for an hour, then 10 % and 50 %.
        monitors: What is watched while it serves.
        retrain: When the loop trains by itself; None means never.
        serving: How it is served: deadline, cache, personal fields, retention.
    """

    def __init__(
        self,
        name: str,
        *,
        examples: Examples,
        features: Sequence[FeatureView | ViewSelection | NamedService | Field | Transform],
        label: Label,
        train: Callable[[Any, Params], Any],
        params: Mapping[str, Any] | None = None,
        train_on: str | timedelta = "7d",
        holdout: str | float = "20%",
        gates: Sequence[GateSpec] = (),
        rollout: RolloutSpec | None = None,
        monitors: Sequence[MonitorSpec] = (),
        retrain: RetrainSpec | None = None,
        serving: ServingSpec | None = None,
    ) -> None:
        if not name.isidentifier():
            raise DefinitionError(f"model name {name!r} cannot be part of a URL; use letters, digits and underscores")
        self.name = name
        self.examples = examples
        self.features = tuple(features)
        self.label = label
        self.train = train
        self.params: Params = dict(params or {})
        self.train_on = units.duration(train_on)
        self.holdout = units.share(holdout)
        self.gates = tuple(gates)
        self.rollout = rollout or _default_rollout()
        self.monitors = tuple(monitors)
        self.retrain = retrain
        self.serving = serving or ServingSpec()
        self._compiled: FeatureService | None = None
        if all(service.is_bound for service in self.services):
            self._compile()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {len(self.features)} parts)"

    def _compile(self) -> FeatureService:
        examples = self.examples
        self._compiled = compile_service(self.name, examples.at, expand(self.features), examples)
        check_log(self.name, examples, self.label, self._compiled, self.serving.personal)
        return self._compiled

    @property
    def service(self) -> FeatureService:
        """Everything the model reads, compiled.

        Raises:
            DefinitionError: a feature service of it names a view by text, and the definitions are not collected yet.
        """
        return self._compiled or self._compile()

    @property
    def services(self) -> tuple[NamedService, ...]:
        """The feature services this model reads."""
        return tuple(f for f in self.features if isinstance(f, NamedService))

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The views this model reads."""
        parts = expand(self.features)
        return tuple(
            f.view if isinstance(f, ViewSelection) else f for f in parts if isinstance(f, FeatureView | ViewSelection)
        )

    @property
    def timezone(self) -> str:
        """Where the model's days begin: the zone of its examples."""
        return self.examples.timezone

    @property
    def plan(self) -> TrainingPlan:
        """What the training stages need of this model."""
        return TrainingPlan(
            model=self.name,
            examples=self.examples,
            label=self.label,
            service=self.service,
            train=self.train,
            params=self.params,
            train_on=self.train_on,
            holdout=self.holdout,
            gates=self.gates,
        )


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything a project defines, by name."""

    models: Mapping[str, Model]
    views: Mapping[str, FeatureView]
    sources: Mapping[str, SourceSpec]
    services: Mapping[str, NamedService] = field(default_factory=dict)
    flags: Mapping[str, Flag] = field(default_factory=dict)
    experiments: Mapping[str, Experiment] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: Iterable[object]) -> Self:
        """Collect models, views, flags and experiments, and the sources they read.

        Raises:
            DuplicateName: two different definitions share a name.
        """
        given = list(objects)
        models: dict[str, Model] = {}
        views: dict[str, FeatureView] = {}
        sources: dict[str, SourceSpec] = {}
        flags: dict[str, Flag] = {}
        experiments: dict[str, Experiment] = {}
        for thing in given:
            if isinstance(thing, FeatureView | ViewSelection):
                _add(views, thing.view if isinstance(thing, ViewSelection) else thing, "feature view")
            elif isinstance(thing, Source):
                _add(sources, thing.spec, "source")
            elif isinstance(thing, Flag):
                _add(flags, thing, "flag")
            elif isinstance(thing, Experiment):
                _add(experiments, thing, "experiment")
        services = _services(given, views)
        for model in (thing for thing in given if isinstance(thing, Model)):
            _add(models, model, "model")
            if model.examples.source is not None:
                _add(sources, model.examples.source.spec, "source")
            for view in model.views:
                _add(views, view, "feature view")
        for view in views.values():
            _add(sources, view.spec.source, "source")
        return cls(models, views, sources, services, flags, experiments)

    @classmethod
    def from_module(cls, module: ModuleType) -> Self:
        """Collect what a module defines at its top level."""
        return cls.of(value for name, value in vars(module).items() if not name.startswith("_"))

    def model(self, name: str) -> Model:
        """Return a model; raises UnknownName with near names."""
        return _get(self.models, name, "model")

    def view(self, name: str) -> FeatureView:
        """Return a feature view; raises UnknownName with near names."""
        return _get(self.views, name, "feature view")

    def service(self, name: str) -> NamedService:
        """Return a feature service; raises UnknownName with near names."""
        return _get(self.services, name, "feature service")

    def experiment(self, name: str) -> Experiment:
        """Return an experiment; raises UnknownName with near names."""
        return _get(self.experiments, name, "experiment")

    def selected(self, names: Iterable[str]) -> list[str]:
        """Return "view" and "view:feature" names with each feature service's name replaced by what it reads.

        Raises:
            UnknownName: there is neither a view nor a service of a name.
        """
        found: list[str] = []
        for name in names:
            view = name.partition(":")[0]
            if name in self.services:
                found += self.services[name].names
            elif view in self.views:
                found.append(name)
            else:
                raise UnknownName.of("feature view or service", view, [*self.views, *self.services])
        return found

    def source(self, name: str) -> SourceSpec:
        """Return a source's spec; raises UnknownName with near names."""
        return _get(self.sources, name, "source")

    @property
    def view_specs(self) -> tuple[ViewSpec, ...]:
        """The compiled views in order of their names."""
        return tuple(self.views[name].spec for name in sorted(self.views))


def _services(given: Iterable[object], views: dict[str, FeatureView]) -> dict[str, NamedService]:
    """Collect feature services, also those that only a model lists; look up the views they name by text."""
    services: dict[str, NamedService] = {}
    for thing in given:
        for service in thing.services if isinstance(thing, Model) else (thing,):
            if isinstance(service, NamedService):
                _add(services, service, "feature service")
        if isinstance(thing, Model):
            for part in thing.features:
                if isinstance(part, FeatureView | ViewSelection):
                    _add(views, part.view if isinstance(part, ViewSelection) else part, "feature view")
    for service in services.values():
        for view in service.held:
            _add(views, view, "feature view")
    for service in services.values():
        service.bind(views)
        if service.name in views:
            raise DuplicateName(f"a feature service and a feature view are both named {service.name!r}; rename one")
    return services


def _add(known: dict[str, Any], thing: Any, kind: str) -> None:
    """Keep a definition by name; the same definition twice is fine, two of one name are not."""
    other = known.setdefault(thing.name, thing)
    if other is not thing and getattr(other, "spec", other) != getattr(thing, "spec", thing):
        raise DuplicateName(f"two different {kind}s are named {thing.name!r}; rename one of them")


def _get(known: Mapping[str, T], name: str, kind: str) -> T:
    if name not in known:
        raise UnknownName.of(kind, name, known)
    return known[name]


def _default_rollout() -> RolloutSpec:
    from flyball.rollout.definitions.guards import guard
    from flyball.rollout.definitions.release import Rollout

    return Rollout(shadow="1h", steps=["10%", "50%"], bake="1h", guardrails=[guard.errors(margin="1pp")])
