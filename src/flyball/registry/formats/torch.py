"""PyTorch modules: weights by safetensors with the class in the project's code, else torch.export.

A safetensors file holds numbers and the name of a class; the class is taken from the version's code snapshot, whose
digest is checked. The surprise: torch.export's file is not safe to open. Loading it may unpickle constants and evaluate
shape expressions, so it is signed like a pickle and never taken from outside.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from flyball.errors import IntegrityError, MissingExtra, StageFailed, Untrusted, first_line
from flyball.registry.code import PREFIX
from flyball.registry.formats.types import FILE_NAMES, Call, Scalar, Stored, labels, two_columns

__all__ = ["adapt", "dump", "load", "load_export"]


def dump(model: Any, rows: np.ndarray | None = None) -> Stored | None:
    """Return a module's weights with its class, or its exported graph.

    A class at the top level of one of the project's files is named in the safetensors file, with the module's `config`
    (a dict of JSON values, empty by default) as arguments of its constructor. Any other module is exported for matrices
    of as many columns as `rows` have.
    """
    torch = _torch()
    if isinstance(model, torch.jit.ScriptModule):
        raise StageFailed("a TorchScript module cannot be stored; return the module it was made of")
    classes = labels(getattr(model, "classes", None))
    if isinstance(model, torch.export.ExportedProgram):
        return _exported(model, classes)
    if not isinstance(model, torch.nn.Module):
        return None
    model = model.eval()
    place = _place(model)
    return _weights(model, place, classes) if place else _exported(_export(model, rows), classes)


def adapt(model: Any) -> Call | None:
    """Return the call of a module or an exported program."""
    torch = _torch()
    if isinstance(model, torch.export.ExportedProgram):
        return _call(model.module(), None)
    if not isinstance(model, torch.nn.Module) or hasattr(model, "predict"):
        return None
    return _call(model.eval(), labels(getattr(model, "classes", None)))


def load(data: bytes, *, classes: tuple[Scalar, ...] | None = None, package: Callable[[], str] | None = None) -> Call:
    """Return a module made by its class in the code snapshot, with the stored weights.

    Raises:
        Untrusted: there is no code snapshot, or it has no such class.
    """
    _torch()
    from safetensors.torch import load as read

    place, config = _header(data)
    if package is None:
        raise Untrusted(f"the weights need class {place} from the version's code snapshot, which is not there")
    module, _, name = place.rpartition(":")
    try:
        made = getattr(importlib.import_module(f"{package()}.{module}"), name)(**config)
    except (ImportError, AttributeError) as error:
        raise Untrusted(f"the version's code snapshot has no class {place}: {error}; train the model again") from error
    made.load_state_dict(read(data))
    return _call(made.eval(), classes)


def load_export(data: bytes, *, classes: tuple[Scalar, ...] | None = None) -> Call:
    """Return an exported program that this registry signed; `formats.deserialize` has checked that."""
    torch = _torch()
    return _call(torch.export.load(io.BytesIO(data)).module(), classes)


def _call(module: Any, classes: tuple[Scalar, ...] | None) -> Call:
    torch = _torch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        module = module.to(device)
    kinds = [p.dtype for p in module.parameters() if p.dtype.is_floating_point]
    kind = kinds[0] if kinds else torch.float32
    pair = classes is not None and len(classes) == 2

    def predict(matrix: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            out = module(torch.from_numpy(np.ascontiguousarray(matrix)).to(device=device, dtype=kind))
        values = out.to("cpu", torch.float64).numpy()
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        return two_columns(values) if pair and values.ndim == 1 else values

    return Call(module, predict, classes)


def _weights(model: Any, place: str, classes: tuple[Scalar, ...] | None) -> Stored:
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    try:
        config = json.dumps(getattr(model, "config", None) or {}, sort_keys=True)
    except TypeError as error:
        raise StageFailed(f"{place}.config must be a dict of JSON values, to make the module again: {error}") from error
    data = save(state, metadata={"class": place, "config": config})
    return Stored("safetensors", {FILE_NAMES["safetensors"]: data}, classes)


def _place(model: Any) -> str | None:
    """Return "module:Class" of a class in the project's code snapshot that its `config` can make again."""
    kind = type(model)
    package, _, module = kind.__module__.partition(".")
    if not package.startswith(PREFIX) or "." in kind.__qualname__:
        return None
    try:
        kind(**(getattr(model, "config", None) or {}))
    except TypeError:
        return None
    return f"{module}:{kind.__qualname__}"


def _export(model: Any, rows: np.ndarray | None) -> Any:
    torch = _torch()
    if rows is None or not len(rows):
        raise StageFailed(f"{type(model).__name__} can only be exported with rows of its training data at hand")
    kinds = [p.dtype for p in model.parameters() if p.dtype.is_floating_point]
    example = torch.zeros((2, rows.shape[1]), dtype=kinds[0] if kinds else torch.float32)
    try:
        return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    except Exception as error:  # torch's exporter raises many kinds
        raise StageFailed(
            f"{type(model).__name__} cannot be exported ({first_line(error, most=200)}); put its class at the top "
            f"level of one of the project's files, with a dict `config` of its constructor's arguments"
        ) from error


def _exported(program: Any, classes: tuple[Scalar, ...] | None) -> Stored:
    torch = _torch()
    out = io.BytesIO()
    torch.export.save(program, out)
    return Stored("torch_export", {FILE_NAMES["torch_export"]: out.getvalue()}, classes)


def _header(data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        (length,) = struct.unpack_from("<Q", data)
        notes = json.loads(data[8 : 8 + length])["__metadata__"]
        return str(notes["class"]), dict(json.loads(notes["config"]))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise IntegrityError("the safetensors file does not say which class its weights are for") from error


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra.of("a PyTorch model", "torch") from error
    return torch
