"""MLflow pyfunc folders, taken as they are. Loading one runs whatever its author wanted.

So it happens only in a process of its own: a host, or the child of `registry.apart`. The surprise: this stays so after
promotion; a version of this format is never trusted in a worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flyball.errors import InputError, MissingExtra
from flyball.registry.formats.types import Call, Scalar

__all__ = ["load", "read_folder"]

_LARGEST = 4_000_000_000


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return every file of an MLflow model's folder by its name in an artifact.

    Raises:
        InputError: it is no MLflow model, has a link that leads out of it, or is larger than 4 GB.
    """
    if not (folder / "MLmodel").is_file():
        raise InputError(f"{folder.name} has no MLmodel file; give the folder that mlflow's save_model wrote")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    inside = folder.resolve()
    strays = [path for path in paths if not path.resolve().is_relative_to(inside)]
    if strays:
        raise InputError(f"{strays[0].name} of {folder.name} is a link that leads out of the folder; copy the file in")
    if sum(path.stat().st_size for path in paths) > _LARGEST:
        raise InputError(f"{folder.name} is larger than 4 GB; a version's files are kept in memory while it is stored")
    return {f"pyfunc/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def load(folder: Path, names: tuple[str, ...], *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Load a folder in this process, which must be one of its own."""
    try:
        import mlflow.pyfunc
        import pandas as pd
    except ImportError as error:
        raise MissingExtra.of("an MLflow model", "standard") from error
    model = mlflow.pyfunc.load_model(str(folder))

    def predict(matrix: np.ndarray) -> np.ndarray:
        answer: Any = model.predict(pd.DataFrame(matrix, columns=list(names)))
        return np.asarray(answer)

    return Call(model, predict, classes)
