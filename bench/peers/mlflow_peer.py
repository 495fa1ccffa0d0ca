"""MLflow's own scoring server: `mlflow models serve -w 1`, the model saved with the flavour of its kind."""

import json
import os
import sys
from pathlib import Path

TITLE = "MLflow 3.17.2"
REQUIRES = ("mlflow==3.17.2", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1", "onnx")
SETTINGS = ("plain",)
PATH = "/invocations"


def body(rows, kind):
    return json.dumps({"inputs": rows}).encode()


def value(answer, kind):
    found = json.loads(answer)["predictions"]
    if isinstance(found, dict):
        found = found["probabilities"]
    return found[0] if kind == "hgb" else found[0][1]


def command(python, kind, model, port, folder, setting):
    return [python, __file__, kind, model, str(port), folder]


def serve(kind, model, port, folder):
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    saved = str(Path(folder) / "saved")
    needed = ["scikit-learn", "onnxruntime"]
    if kind == "onnx":
        import mlflow.onnx
        import onnx

        mlflow.onnx.save_model(onnx.load(model), saved, pip_requirements=needed,
                               onnx_execution_providers=["CPUExecutionProvider"],
                               onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1})  # fmt: skip
    else:
        import joblib
        import mlflow.sklearn

        how = "predict_proba" if kind == "lr" else "predict"
        mlflow.sklearn.save_model(joblib.load(model), saved, pip_requirements=needed, pyfunc_predict_fn=how,
                                  serialization_format="cloudpickle")  # fmt: skip
    call = ["models", "serve", "-m", saved, "-w", "1", "-h", "127.0.0.1", "-p", str(port), "--env-manager", "local"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *call])


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
