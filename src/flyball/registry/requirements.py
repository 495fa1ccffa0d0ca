"""What must be installed to answer with a model, pinned to what it was trained with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from flyball.registry.code import PREFIX
from flyball.registry.types import Kind

__all__ = ["requirements", "requirements_of"]

_HOMES = {"sklearn": "scikit-learn"}
_NEEDS: dict[Kind, tuple[str, ...]] = {
    "onnx": ("onnxruntime",), "xgboost": ("xgboost-cpu", "xgboost"), "lightgbm": ("lightgbm",),
    "catboost": ("catboost",), "safetensors": ("torch", "safetensors"), "torch_export": ("torch",),
    "keras": ("keras", "torch"), "skops": ("scikit-learn", "scipy", "skops"), "pyfunc": ("mlflow-skinny", "pandas"),
}  # fmt: skip


def requirements(model: object, extra: Iterable[str] = ()) -> list[str]:
    """Return pinned requirements of a fitted model: flyball, numpy and the package its class comes from."""
    packages = {"flyball", "numpy", *extra}
    root = type(model).__module__.partition(".")[0]
    if model is not None and not root.startswith(PREFIX):
        packages |= _distributions(root)
    if "scikit-learn" in packages:
        packages |= {"scipy", "skops"}
    return sorted(f"{name}=={metadata.version(name)}" for name in packages if _installed(name))


def _distributions(root: str) -> set[str]:
    """Return what is installed to provide a top-level module; the general question takes 0.3 s, so guess first."""
    near = {_HOMES.get(root, root), f"{root}-cpu"}
    return {n for n in near if _installed(n)} or set(metadata.packages_distributions().get(root, []))


def requirements_of(kind: Kind, model: object = None) -> list[str]:
    """Return pinned requirements of a stored model: those of its format, and of a pickled or skops model's class."""
    extra = [name for name in _NEEDS.get(kind, ()) if _installed(name)]
    return requirements(model if kind in {"pickle", "skops"} else None, extra)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
