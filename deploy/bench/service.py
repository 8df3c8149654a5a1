"""The comparison for `beltsight bench classify --python`: the same ONNX file behind FastAPI, as one would write it.

Usage: service.py MODEL.onnx PORT SIDE
"""

import io
import os
import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

options = ort.SessionOptions()
options.intra_op_num_threads = len(os.sched_getaffinity(0))
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
side = int(sys.argv[3])
app = FastAPI()


def classify(body: bytes) -> list[float]:
    picture = Image.open(io.BytesIO(body)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    logits = session.run(["logits"], {"image": np.asarray(picture, dtype=np.uint8)[None]})[0][0]
    e = np.exp(logits - logits.max())
    return (e / e.sum()).tolist()


@app.post("/classify")
async def handler(request: Request):
    body = await request.body()

    return {"probabilities": await run_in_threadpool(classify, body)}


@app.get("/readyz")
def ready():
    return {"ready": True}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
