"""A fitted model to bytes and back: skops when every type in it is one we allow, else pickle signed by this registry.

The surprise: skops writes object addresses into its file, so two dumps of one model differ. We number them in order of
appearance and fix the zip's times: equal models give equal bytes, and a resumed run gives the same digest.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import pickle
import secrets
import zipfile
from pathlib import Path
from typing import Any, Literal

from flyball.errors import IntegrityError, StageFailed, Untrusted
from flyball.layout import Layout

__all__ = ["ALLOWED", "FILE_NAMES", "deserialize", "ensure_signing_key", "serialize", "sign"]

Format = Literal["skops", "pickle"]
FILE_NAMES: dict[str, str] = {"skops": "model.skops", "pickle": "model.pkl"}

# Beyond what skops itself trusts (scikit-learn's public estimators, numpy, scipy): parts of fitted scikit-learn models.
# These are plain holders of arrays; a file of ours is opened only after its SHA-256 was compared with the registry's.
ALLOWED = frozenset({
    "numpy.dtype",
    "sklearn._loss.link.IdentityLink", "sklearn._loss.link.Interval", "sklearn._loss.link.LogLink",
    "sklearn._loss.link.LogitLink", "sklearn._loss.link.MultinomialLogit", "sklearn._loss.loss.AbsoluteError",
    "sklearn._loss.loss.HalfBinomialLoss", "sklearn._loss.loss.HalfGammaLoss", "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfPoissonLoss", "sklearn._loss.loss.HalfSquaredError", "sklearn._loss.loss.PinballLoss",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.preprocessing._label.LabelEncoder", "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch",
})  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)


def serialize(model: object) -> tuple[Format, bytes]:
    """Return the safest format that can hold the model, and its bytes.

    Raises:
        StageFailed: the model can be written neither by skops nor by pickle.
    """
    data = _skops(model)
    if data is not None:
        return "skops", data
    try:
        return "pickle", pickle.dumps(model, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise StageFailed(
            f"the trained {type(model).__name__} cannot be stored: {error}; "
            f"return a scikit-learn estimator or an object of a class at a module's top level"
        ) from error


def deserialize(kind: str, data: bytes, *, signature: str = "", key: bytes = b"") -> Any:
    """Return the model of `serialize`.

    Raises:
        Untrusted: a skops file with a type outside of our list, or a pickle that this registry did not sign.
    """
    if kind == "skops":
        return _load_skops(data)
    if kind != "pickle":
        raise Untrusted(f"model format {kind!r} cannot be loaded by this flyball; known: skops, pickle")
    if not key or not hmac.compare_digest(sign(data, key), signature):
        raise Untrusted("this pickle was not signed by this project's registry; train the model here, or use skops")
    return pickle.loads(data)  # signed by this registry, checked on the line above


def sign(data: bytes, key: bytes) -> str:
    """Return the HMAC-SHA256 of a model file under the registry's key, in hex."""
    return hmac.new(key, b"flyball-pickle-1\0" + hashlib.sha256(data).digest(), hashlib.sha256).hexdigest()


def ensure_signing_key(layout: Layout) -> bytes:
    """Return the registry's key, made once with mode 0600; of several processes the first wins.

    Raises:
        IntegrityError: the file exists but is too short to be a key.
    """
    path = layout.signing_key
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails when another process was faster; both then read the same key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    key = path.read_bytes()
    if len(key) < 32:
        raise IntegrityError(f"{path.name} holds {len(key)} bytes, a key has 32; restore it from a backup")
    return key


def _skops(model: object) -> bytes | None:
    """Return canonical skops bytes, or None when skops cannot hold the model or a type is not allowed."""
    if not type(model).__module__.startswith("sklearn."):
        return None
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    try:
        data = canonical_zip(skops.io.dumps(model))
        return data if set(skops.io.get_untrusted_types(data=data)) <= ALLOWED else None
    except (UnsupportedTypeException, TypeError, AttributeError):
        return None


def _load_skops(data: bytes) -> Any:
    import skops.io

    foreign = sorted(set(skops.io.get_untrusted_types(data=data)) - ALLOWED)
    if foreign:
        raise Untrusted(
            f"the model file holds types that are not on our list: {', '.join(foreign)}; train it again here"
        )
    return skops.io.loads(data, trusted=sorted(ALLOWED))


def canonical_zip(data: bytes) -> bytes:
    """Return a skops file with addresses numbered in order of appearance, sorted members and fixed times."""
    source = zipfile.ZipFile(io.BytesIO(data))
    schema = json.loads(source.read("schema.json"))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    _renumber(schema, numbers, files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for old, new in files.items():
            target.writestr(zipfile.ZipInfo(new, _EPOCH), source.read(old))
        target.writestr(zipfile.ZipInfo("schema.json", _EPOCH), json.dumps(schema))
    return out.getvalue()


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, list):
        for each in node:
            _renumber(each, numbers, files)
        return
    if not isinstance(node, dict):
        return
    if isinstance(node.get("__id__"), int):
        node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
    if isinstance(node.get("file"), str):
        old = node["file"]
        node["file"] = files.setdefault(old, f"{len(files) + 1}{Path(old).suffix}")
    for each in node.values():
        _renumber(each, numbers, files)
