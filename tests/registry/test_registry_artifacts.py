"""Artifacts: every byte is checked at load, pickles need our signature, equal models give equal bytes."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.errors import ConflictError, InputError, IntegrityError, Untrusted
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.layout import Layout
from flyball.registry.artifacts import (
    Predictor,
    ensure_signing_key,
    file_digest,
    load_version,
    requirements,
    write_artifact,
)
from flyball.registry.formats import FILE_NAMES, deserialize, serialize, sign
from flyball.registry.types import Manifest

NAMES = ("a", "b")
SERVICE = FeatureService(
    "eta", "at", tuple(ServiceColumn(n, "field") for n in NAMES), tuple(InputSpec(n, "float64") for n in NAMES)
)


class Doubler:
    """A model of a class of our own, so it must be pickled."""

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return matrix[:, 0] * 2


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path, tmp_path / "state")


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 2))


def store(layout: Layout, model: object, **changes: Any) -> tuple[Path, str]:
    kind, body = serialize(model)
    key = ensure_signing_key(layout)
    manifest = Manifest(
        "eta", "v1", "r1", kind, {}, SERVICE, "d", "", datetime(2020, 1, 1, tzinfo=UTC),
        signature=changes.get("signature", sign(body, key) if kind == "pickle" else ""),
    )  # fmt: skip
    path = layout.artifacts / "eta" / "v1"
    return path, write_artifact(path, manifest, {FILE_NAMES[kind]: body, "requirements.txt": b"numpy\n"})[1]


def boosted(rows: np.ndarray) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(rows, rows[:, 0])


def test_boosted_trees_are_stored_by_skops_and_answer_the_same(layout: Layout, rows: np.ndarray) -> None:
    model = boosted(rows)
    loaded = load_version(*store(layout, model))
    assert loaded.manifest.format == "skops"
    assert np.array_equal(loaded.predict(rows), model.predict(rows))


def test_equal_models_give_equal_bytes(rows: np.ndarray) -> None:
    assert serialize(boosted(rows)) == serialize(boosted(rows))


def test_classifier_answers_probabilities(layout: Layout, rows: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    loaded = load_version(*store(layout, model))
    assert loaded.classifier
    assert loaded.predict(rows).shape == (300, 2)


@pytest.mark.parametrize("name", ["model.skops", "requirements.txt", "manifest.json"])
@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_changed_file_is_named(layout: Layout, rows: np.ndarray, name: str, harm: str) -> None:
    path, digest = store(layout, boosted(rows))
    harms: dict[str, Callable[[Path], object]] = {
        "change": lambda p: p.write_bytes(p.read_bytes()[:-1] + b"!"), "remove": Path.unlink,
    }  # fmt: skip
    harms[harm](path / name)
    with pytest.raises(IntegrityError, match=name):
        load_version(path, digest)


def test_signed_pickle_loads_with_our_key_only(layout: Layout, rows: np.ndarray) -> None:
    path, digest = store(layout, Doubler())
    loaded = load_version(path, digest, signing_key=ensure_signing_key(layout))
    assert loaded.predict(rows) == pytest.approx(rows[:, 0] * 2)
    for key in (b"", b"x" * 32):
        with pytest.raises(Untrusted, match="not signed"):
            load_version(path, digest, signing_key=key)


def test_pickle_with_a_wrong_signature_is_refused(layout: Layout) -> None:
    path, digest = store(layout, Doubler(), signature="00" * 32)
    with pytest.raises(Untrusted, match="not signed"):
        load_version(path, digest, signing_key=ensure_signing_key(layout))


def test_skops_file_with_a_foreign_type_is_refused() -> None:
    import skops.io

    with pytest.raises(Untrusted, match="Doubler"):
        deserialize("skops", skops.io.dumps(Doubler()))


def test_writing_twice_changes_nothing_and_other_content_is_refused_once_registered(
    layout: Layout, rows: np.ndarray
) -> None:
    path, digest = store(layout, boosted(rows))
    before = (path / "manifest.json").stat().st_mtime_ns
    assert store(layout, boosted(rows))[1] == digest
    assert (path / "manifest.json").stat().st_mtime_ns == before
    other = Manifest("eta", "v1", "r2", "skops", {}, SERVICE, "d", "", datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ConflictError, match="versions never change"):
        write_artifact(path, other, {}, registered=digest)
    assert file_digest(path / "manifest.json") == digest


def test_key_is_private_and_made_once_by_many_threads(layout: Layout) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_signing_key(layout))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert stat.S_IMODE(layout.signing_key.stat().st_mode) == 0o600


def test_columns_are_handed_over_in_the_order_the_model_was_fitted_on(rows: np.ndarray) -> None:
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(pd.DataFrame({"b": rows[:, 1], "a": rows[:, 0]}), rows[:, 0])
    assert Predictor(model, NAMES).predict(rows) == pytest.approx(rows[:, 0])
    with pytest.raises(InputError, match="fitted on b"):
        Predictor(model, ("a", "c"))


def test_an_answer_of_the_wrong_length_is_an_error(rows: np.ndarray) -> None:
    class Short:
        def predict(self, matrix: np.ndarray) -> np.ndarray:
            return matrix[:-1, 0]

    with pytest.raises(InputError, match="answered 300 rows"):
        Predictor(Short(), NAMES).predict(rows)
    with pytest.raises(InputError, match="no predict"):
        Predictor(object(), NAMES)


def test_requirements_are_pinned(rows: np.ndarray) -> None:
    pinned = requirements(boosted(rows))
    assert all("==" in line for line in pinned)
    assert {line.split("==")[0] for line in pinned} >= {"flyball", "numpy", "scikit-learn", "skops"}
