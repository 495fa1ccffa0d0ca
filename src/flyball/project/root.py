"""`Project`: open one, and reach its parts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flyball.clock import Clock, ManualClock, SystemClock
from flyball.config import Config, load
from flyball.errors import ConfigError
from flyball.layout import Layout
from flyball.settings import ProjectSettings, Settings, TrackingSettings

if TYPE_CHECKING:
    from flyball.adapters.duckdb import DuckDBEngine
    from flyball.adapters.spark import SparkEngine
    from flyball.control import Database
    from flyball.definitions import Definitions
    from flyball.features.definitions.imported import ImportedView
    from flyball.project.access import KeyHandle
    from flyball.project.apply import Plan
    from flyball.project.audit import AuditHandle
    from flyball.project.data import DataHandle
    from flyball.project.experiments import ExperimentHandles
    from flyball.project.features import FeatureHandle
    from flyball.project.flags import FlagHandle
    from flyball.project.log import LogHandle
    from flyball.project.loop import ControlPass, LoopHandle
    from flyball.project.models import ModelHandles
    from flyball.project.monitor import MonitorHandle
    from flyball.project.releases import RolloutHandle
    from flyball.registry.ports import Tracker
    from flyball.serving.log.personal import PersonalKeys
    from flyball.serving.log.replay import Replay
    from flyball.training.types import Run

__all__ = ["Project"]


class Project:
    """A project: settings, definitions, stores, and what can be done with them.

    Use `Project.open("flyball.toml")` for a folder and `Project.temporary([...])` in notebooks and tests. Parts are
    made on first use; `close` (or a with block) releases them.
    """

    def __init__(self, config: Config, *, objects: Iterable[object] | None = None, now: datetime | None = None) -> None:
        self.config = config
        self.objects = None if objects is None else tuple(objects)
        self._now = now
        self._applied: tuple[str, Definitions] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._imports: tuple[ImportedView, ...] = ()
        if objects is None:
            from flyball.adapters.local.snapshots import find_in_snapshots

            find_in_snapshots(config.layout)

    @classmethod
    def open(cls, path: str | Path = "flyball.toml", *, environment: str | None = None) -> Self:
        """Open the project of a flyball.toml or of the folder that holds it.

        Raises:
            ConfigError: the file is missing or malformed, or has an unknown key.
        """
        found = Path(path)
        return cls(load(found / "flyball.toml" if found.is_dir() else found, environment=environment))

    @classmethod
    def temporary(
        cls, objects: Iterable[object], *, root: str | Path | None = None, now: datetime | None = None
    ) -> Self:
        """Make a project of definitions, with its state in a folder that goes away with it.

        No process is started and no port is opened: history, train, gate and an in-process gateway
        (`fb.testing.client(project)`) all run here. Nothing is tracked in MLflow.

        Args:
            objects: Models, feature views, sources.
            root: What the sources' paths are relative to; the present folder by default.
            now: Freeze domain time, for data of the past.
        """
        scratch = tempfile.TemporaryDirectory(prefix="flyball-")
        here = ProjectSettings(name="temporary", state=scratch.name)
        settings = Settings(project=here, tracking=TrackingSettings(enabled=False))
        config = Config(settings, Path(root or ".").resolve())
        project = cls(config, objects=objects, now=now)
        project._scratch = scratch
        return project

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Project({self.settings.project.name!r}, root={str(self.root)!r})"

    def close(self) -> None:
        """Release stores and databases; a temporary project's state is removed."""
        for name in ("features", "database"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    # -- where and when -------------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings of flyball.toml."""
        return self.config.settings

    @property
    def root(self) -> Path:
        """The folder of flyball.toml."""
        return self.config.root

    @property
    def layout(self) -> Layout:
        """Where everything is kept."""
        return self.config.layout

    @property
    def is_temporary(self) -> bool:
        """Whether the project was made of objects, without a folder."""
        return self.objects is not None

    @cached_property
    def clock(self) -> Clock:
        """Domain time: the machine's, or the simulated one of the shared map or of `[clock] start`."""
        if self._now is not None:
            return ManualClock(self._now)
        if self.settings.clock.domain == "system":
            return SystemClock()
        if self.layout.map.exists():
            from flyball.serving.shared.mapclock import MapClock
            from flyball.serving.shared.slots import SharedMap

            return MapClock(SharedMap.open(self.layout.map))
        return ManualClock(_start(self.settings))

    # -- adapters -------------------------------------------------------------------------------------------------

    @cached_property
    def database(self) -> Database:
        """The control database.

        Raises:
            Unavailable: it cannot be opened, or it is not the one under which this project has served.
        """
        from flyball.adapters.local.tables import newest_table
        from flyball.control import connect

        self.layout.state.mkdir(parents=True, exist_ok=True)
        return connect(self.config.database_url, served=newest_table(self.layout))

    @cached_property
    def engine(self) -> DuckDBEngine | SparkEngine:
        """The offline engine, the one that `[offline] engine` names."""
        from flyball.adapters.engines import open_engine

        return open_engine(self.settings, self.root, self.layout)

    @cached_property
    def tracker(self) -> Tracker | None:
        """MLflow, or None when tracking is switched off."""
        if not self.settings.tracking.enabled:
            return None
        from flyball.adapters.mlflow import MLflowTracker

        uri = self.settings.tracking.uri or f"sqlite:///{self.layout.mlflow / 'mlflow.db'}"
        return MLflowTracker(uri, self.layout.mlflow / "artifacts")

    # -- definitions ----------------------------------------------------------------------------------------------

    @cached_property
    def working(self) -> Definitions:
        """The definitions as they stand on disk now (or the objects of a temporary project)."""
        from flyball.definitions import Definitions
        from flyball.registry.code import forget_code, load_definitions

        if self.objects is not None:
            return Definitions.of(self.objects)
        from flyball.features.definitions.imported import asking, imports_of
        from flyball.project.shared import ask

        with asking(lambda name, digest: ask(self, name, digest)):
            module = load_definitions(self.root, self.settings.project.definitions)
        self._imports = tuple(imports_of(module))
        if any(view.asked for view in self._imports):
            forget_code(module)
        return Definitions.from_module(module)

    @property
    def imports(self) -> tuple[ImportedView, ...]:
        """The views of other projects that the working definitions import."""
        return self._imports if self.working is not None else ()

    @property
    def applied(self) -> Definitions:
        """The definitions that are live; an unapplied project's working ones.

        They are read again when another process applied new ones.
        """
        record = None if self.is_temporary else self.database.deployments.applied()
        return self.working if record is None else self.definitions_of(record.code)

    def definitions_of(self, code: str) -> Definitions:
        """Return the definitions of a code snapshot."""
        from flyball.definitions import Definitions
        from flyball.registry.code import load_definitions

        if self.is_temporary:
            return self.working
        if self._applied is None or self._applied[0] != code:
            module = load_definitions(self.layout.code / code, self.settings.project.definitions)
            self._applied = code, Definitions.from_module(module)
        return self._applied[1]

    # -- what can be done -----------------------------------------------------------------------------------------

    def apply(
        self,
        *,
        dry_run: bool = False,
        force: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Plan:
        """Make the working definitions live: snapshot the code, fill new feature views, tell the processes.

        Args:
            dry_run: Only say what would change, field by field, and what that breaks.
            force: Apply although a version or model reads what is taken away.
            progress: Called with (view, entities done, entities in all) while views are filled.
        """
        from flyball.project.apply import apply, plan

        return plan(self) if dry_run else apply(self, progress=progress, force=force)

    @cached_property
    def features(self) -> FeatureHandle:
        """History, online look-up, push and materialization."""
        from flyball.project.features import FeatureHandle

        return FeatureHandle(self)

    @cached_property
    def keys(self) -> KeyHandle:
        """Keys of callers: create, list, revoke."""
        from flyball.project.access import KeyHandle

        return KeyHandle(self)

    @cached_property
    def flags(self) -> FlagHandle:
        """Feature flags: list, decide, set."""
        from flyball.project.flags import FlagHandle

        return FlagHandle(self)

    @cached_property
    def experiments(self) -> ExperimentHandles:
        """Experiments by name: start, stop, status, result."""
        from flyball.project.experiments import ExperimentHandles

        return ExperimentHandles(self)

    @cached_property
    def audit(self) -> AuditHandle:
        """Who did what, and who read the prediction log."""
        from flyball.project.audit import AuditHandle

        return AuditHandle(self)

    @cached_property
    def data(self) -> DataHandle:
        """Training sets."""
        from flyball.project.data import DataHandle

        return DataHandle(self)

    @cached_property
    def log(self) -> LogHandle:
        """The prediction log as tables."""
        from flyball.project.log import LogHandle

        return LogHandle(self)

    @cached_property
    def models(self) -> ModelHandles:
        """Models by name: versions, champion, promote, retire, score."""
        from flyball.project.models import ModelHandles

        return ModelHandles(self)

    @cached_property
    def loop(self) -> LoopHandle:
        """The loop: once, why, freeze, thaw."""
        from flyball.project.loop import LoopHandle

        return LoopHandle(self)

    def train(
        self,
        model: str,
        params: Mapping[str, Any] | None = None,
        *,
        train_on: str | None = None,
        cause: str = "manual",
        progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Run all training stages of a model and return the run; its gate may have refused the version.

        Args:
            model: The model's name.
            params: Override some of the model's params.
            train_on: Override how far back examples are taken, such as "9d".
            cause: Why, for the record.
            progress: Called with the run when a stage, the last of its stages, has started or ended.

        Raises:
            StageFailed: a stage failed; the message names it and how to resume.
        """
        from flyball.project.runs import train

        return train(self, model, params or {}, train_on=train_on, cause=cause, progress=progress)

    def replay(
        self,
        model: str,
        version: str,
        *,
        log: str | Path = "live",
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100_000,
        tolerance: float = 1e-9,
        recompute: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Replay:
        """Run a version over logged traffic and compare its answers with those that were given.

        Args:
            model: The model's name.
            version: The version that is tried.
            log: "live" for this project's log, or a folder or file of segments or shipped Parquet.
            since: Only requests from this T on.
            until: Only requests before this T.
            limit: Newest requests that are taken.
            tolerance: Distance up to which two numbers agree; batches of other sizes round differently.
            recompute: Read the features from history instead of taking the served ones.
            progress: Called with ("replay", rows done, rows in all).

        Raises:
            UnknownName: there is no such model or version.
            InputError: no request fits, or none has the features that the version reads.
        """
        from flyball.project.replay import replay

        self.audit.log_read("replayed", f"{model} {version}")
        return replay(self, model, version, log=log, since=since, until=until, limit=limit, tolerance=tolerance,
                      recompute=recompute, progress=progress)  # fmt: skip

    def run_stages_here(self, run: str, stage: str | None = None) -> Run:
        """Run the stages of a run in this process (what a stage child does)."""
        from flyball.project.runs import run_stages_here

        return run_stages_here(self, run, stage)

    def rollout(self, model: str, version: str) -> RolloutHandle:
        """Return the newest rollout of a version, or one that can be started."""
        from flyball.project.releases import RolloutHandle

        return RolloutHandle(self, model, version)

    def personal_keys(self) -> PersonalKeys:
        """Return the keys by which personal fields of the prediction log are hashed and encrypted."""
        from flyball.serving.log.personal import PersonalKeys

        encryption = self.config.secret_if_set(self.settings.server.encryption_key)
        return PersonalKeys.load(self.layout.personal_key, encryption)

    def explain(self, prediction_id: str, *, reveal: bool = False) -> dict[str, Any]:
        """Say how one prediction came about: arm and why, features with status, versions, latency by stage, outcome.

        That somebody looked goes into the audit trail; `reveal` decrypts what the log keeps encrypted.

        Raises:
            UnknownName: the log holds no such prediction.
            InputError: it is to be revealed, and `server.encryption_key` is missing or another one.
        """
        from flyball.project.explain import explain

        self.audit.log_read("revealed" if reveal else "explained", prediction_id)
        return explain(self, prediction_id, reveal=reveal)

    def monitor(self, model: str) -> MonitorHandle:
        """Return a model's drift and performance."""
        from flyball.project.monitor import MonitorHandle

        return MonitorHandle(self, model)

    @cached_property
    def control(self) -> ControlPass:
        """One pass of the controller over everything due."""
        from flyball.project.loop import ControlPass

        return ControlPass(self)

    def control_step(self, now: datetime, fence: int) -> list[str]:
        """Do what is due at `now`: evidence, reconcile, monitors, loop. Returns what was done, in words."""
        return self.control.step(now, fence)


def _start(settings: Settings) -> datetime:
    try:
        start = datetime.fromisoformat(settings.clock.start)
    except ValueError:
        start = None
    if start is None or start.tzinfo is None:
        raise ConfigError(
            f"[clock] start is {settings.clock.start!r}; a simulated clock needs a time with a zone, "
            'such as start = "2020-03-11T04:00:00Z"'
        )
    return start
