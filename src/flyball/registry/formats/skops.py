"""scikit-learn models by skops, when every type in the model is one we allow.

The surprise: skops writes object addresses into its file, so two dumps of one model differ. We number them in order of
appearance and fix the zip's times: equal models give equal bytes, and a resumed run gives the same digest.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from flyball.errors import Untrusted

__all__ = ["ALLOWED", "canonical_zip", "dump", "load"]

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


def dump(model: object) -> bytes | None:
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


def load(data: bytes) -> Any:
    """Return the estimator; raises Untrusted for a type outside of our list."""
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
