"""MLflow behind `registry.ports.Tracker`: runs, metrics and the public face of the registry.

The surprise: MLflow reads its switches when it is imported, so telemetry is turned off in the environment before that;
and several processes creating its SQLite store at once leave it unusable, so every opening happens under a file lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flyball.errors import MissingExtra, Untrusted

__all__ = ["MLflowTracker"]

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_ENABLE_ASYNC_LOGGING": "false"}
_RUN_TAG = "flyball.run"
_LOADER = "flyball.adapters.mlflow"


class MLflowTracker:
    """Log runs to an MLflow store and mirror versions into its registry.

    Nothing is imported or opened before the first call; `warm` does that ahead of time, in any thread.

    Args:
        uri: MLflow tracking URI; sqlite:///PATH for a local store.
        artifact_root: Absolute folder for artifacts of new experiments; used with a local store only.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self._uri = uri
        self._root = artifact_root.absolute()
        self._lock = threading.RLock()
        self._opened: Any = None

    def log_run(
        self,
        *,
        model: str,
        run: str,
        version: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        folder: Path,
        requirements: list[str],
        columns: list[tuple[str, str]],
    ) -> str:
        """Log a run with its artifact folder once and register the model; return MLflow's run id.

        A second call for the same `run` completes what an interrupted first one left out, and else changes nothing.
        """
        client = self._client()
        with self._exclusively():
            experiment = self._experiment(client, model)
            found = client.search_runs([experiment], filter_string=f"tags.`{_RUN_TAG}` = '{run}'", max_results=1)
            if found and found[0].info.status == "FINISHED":
                return str(found[0].info.run_id)
            logged = found[0] if found else client.create_run(experiment, tags={_RUN_TAG: run}, run_name=run)
            self._log_batch(client, logged.info.run_id, params, metrics, {**tags, "flyball.version": version})
            self._log_model(client, logged, folder, requirements, columns)
            self._register(client, logged, model, version, tags)
            client.set_terminated(logged.info.run_id, "FINISHED")
            return str(logged.info.run_id)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias such as "champion" at a version; does nothing when MLflow has not seen that version."""
        client = self._client()
        with self._exclusively():
            number = self._number(client, model, version)
            if number is not None:
                client.set_registered_model_alias(model, alias, number)

    def _log_batch(
        self,
        client: Any,
        run_id: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)[:6000]) for name, value in params.items()],
            tags=[RunTag(name, str(value)) for name, value in tags.items()],
        )

    def _log_model(
        self, client: Any, run: Any, folder: Path, requirements: list[str], columns: list[tuple[str, str]]
    ) -> None:
        """Upload the artifact folder as an MLflow model: our loader, explicit signature, pinned requirements."""
        from mlflow.models import Model, ModelSignature
        from mlflow.types.schema import ColSpec, Schema

        with tempfile.TemporaryDirectory(prefix="flyball-mlflow-") as place:
            built = Path(place) / "model"
            shutil.copytree(folder, built / "data")
            (built / "requirements.txt").write_text("\n".join(requirements) + "\n")
            inputs = Schema([ColSpec(kind, name) for name, kind in columns])
            described = Model(run_id=run.info.run_id, signature=ModelSignature(inputs, Schema([ColSpec("double")])))
            described.add_flavor("python_function", loader_module=_LOADER, data="data", env={"virtualenv": "env.yaml"})
            (built / "env.yaml").write_text("dependencies:\n- -r requirements.txt\n")
            described.save(str(built / "MLmodel"))
            client.log_artifacts(run.info.run_id, str(built), "model")

    def _register(self, client: Any, run: Any, model: str, version: str, tags: Mapping[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # it exists already
            client.create_registered_model(model)
        if self._number(client, model, version) is None:
            all_tags = {**tags, "flyball.version": version}
            source = f"{run.info.artifact_uri}/model"
            client.create_model_version(model, source, run.info.run_id, tags=all_tags, await_creation_for=0)

    def _number(self, client: Any, model: str, version: str) -> str | None:
        found = client.search_model_versions(f"name = '{model}' and tags.`flyball.version` = '{version}'")
        return str(found[0].version) if found else None

    def _experiment(self, client: Any, model: str) -> str:
        known = client.get_experiment_by_name(model)
        if known is not None:
            return str(known.experiment_id)
        location = (self._root / model).as_uri() if self._local else None
        return str(client.create_experiment(model, artifact_location=location))

    def _client(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow.models
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtra.of("tracking with MLflow", "standard") from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        del mlflow
        with self._exclusively():
            client = MlflowClient(self._uri, self._uri)
            client.search_experiments(max_results=1)  # creates the tables
        return client

    @property
    def _local(self) -> bool:
        return self._uri.startswith("sqlite:")

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the store's file lock, so that one process creates it and one at a time registers."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._lock, (self._root.parent / "mlflow.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _Scorer:
    """What `mlflow.pyfunc.load_model` calls."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded

    def predict(self, frame: Any, params: Any = None) -> Any:
        """Return predictions for a data frame with the version's feature columns."""
        del params
        names = list(self._loaded.manifest.service.names)
        return self._loaded.predict(frame[names].to_numpy(dtype="float64"))


def _load_pyfunc(path: str) -> _Scorer:
    """Load the artifact of a logged model (called by MLflow); pickles are left to flyball itself, which has the key."""
    from flyball.registry.artifacts import file_digest, load_version

    folder = Path(path)
    try:
        return _Scorer(load_version(folder, file_digest(folder / "manifest.json")))
    except Untrusted as error:
        raise Untrusted(
            f"{error}; a signed pickle can only be loaded through flyball, see flyball.Project.models"
        ) from error
