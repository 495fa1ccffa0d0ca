"""Any Python object by pickle. Loading runs code, so a caller checks the registry's signature first."""

from __future__ import annotations

import pickle
from typing import Any

from flyball.errors import StageFailed

__all__ = ["dump", "load"]


def dump(model: object) -> bytes:
    """Return the pickle of an object; raises StageFailed when it cannot be pickled."""
    try:
        return pickle.dumps(model, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise StageFailed(
            f"the trained {type(model).__name__} cannot be stored: {error}; "
            f"return a scikit-learn estimator or an object of a class at a module's top level"
        ) from error


def load(data: bytes) -> Any:
    """Return the object of a pickle that this registry signed; `formats.deserialize` has checked that."""
    return pickle.loads(data)
