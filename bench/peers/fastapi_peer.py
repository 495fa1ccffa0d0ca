"""Async FastAPI under uvicorn (uvloop, httptools): parse the same V2 body, predict in the loop."""

import json
import sys

TITLE = "FastAPI, async"
REQUIRES = ("fastapi", "uvicorn[standard]", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("plain",)
PATH = "/v2/models/bench/infer"


def body(rows, kind):
    flat = [v for row in rows for v in row]
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def value(answer, kind):
    return json.loads(answer)["outputs"][0]["data"][0]


def command(python, kind, model, port, folder, setting):
    return [python, __file__, kind, model, str(port)]


def serve(kind, model, port):
    import numpy as np
    import uvicorn
    from bench_model import load
    from fastapi import FastAPI, Request

    app, predict = FastAPI(), load(kind, model)

    @app.post(PATH)
    async def infer(request: Request):
        tensor = (await request.json())["inputs"][0]
        rows = np.asarray(tensor["data"], dtype=np.float64).reshape(tensor["shape"])
        found = predict(rows)
        output = {"name": "output", "shape": [len(rows)], "datatype": "FP64", "data": found.tolist()}
        return {"model_name": "bench", "outputs": [output]}

    uvicorn.run(app, port=port, access_log=False, log_level="error", workers=1)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
