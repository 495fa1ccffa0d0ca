"""Load the run's model file inside a peer's server: rows of float64, shape (n, 30), in; n numbers out."""

from __future__ import annotations


def load(kind: str, path: str):
    """Return a callable: probability of class 1 (`lr`, `onnx`) or the value (`hgb`) of each row."""
    import numpy as np

    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda rows: session.run(["probabilities"], {name: rows.astype(np.float32)})[0][:, 1]
    import joblib

    model = joblib.load(path)
    return (lambda rows: model.predict_proba(rows)[:, 1]) if kind == "lr" else model.predict
