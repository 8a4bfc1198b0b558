"""How each runtime opens a file: numbers in, numbers out, with as many threads as stated."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yolo_slim.deploy.offline import offline

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Images (B, C, H, W) in [0, 1], float32 -> what the file gives out, in its order."""


def onnxruntime(file: Path, threads: int) -> Run:
    """An .onnx file in onnxruntime, on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def openvino(file: Path, threads: int) -> Run:
    """An .xml file (or the folder Ultralytics puts it into, or an .onnx file) in OpenVINO, on the CPU."""
    request = openvino_model(file, threads).create_infer_request()
    return lambda images: [np.array(v) for v in request.infer([images]).values()]


def openvino_model(file: Path, threads: int, **settings: Any) -> Any:
    """Compiled for the CPU in float32, for one request at a time."""
    import openvino as ov

    found = next(iter(sorted(file.glob("*.xml"))), file) if file.is_dir() else file
    fixed = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(str(found), "CPU", {**fixed, **settings})


def torchscript(file: Path, threads: int) -> Run:
    """A .torchscript file in torch.jit, on the CPU."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated each time
        model = torch.jit.load(file, map_location="cpu").eval()

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)  # of the process: others may want another number
        try:
            found = model(torch.from_numpy(images))
        finally:
            torch.set_num_threads(before)
        return [v.numpy() for v in (found if isinstance(found, (tuple, list)) else [found])]

    return run


def ncnn(file: Path, threads: int) -> Run:
    """The folder that Ultralytics puts an NCNN export into, in ncnn, on the CPU, in float32, image by image."""
    import ncnn as nc

    net = nc.Net()
    net.opt.num_threads = threads
    for rounded in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, rounded, False)  # half precision is ncnn's choice on ARM
    param = next(iter(sorted(file.glob("*.param"))), file / "model.ncnn.param")
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise ValueError(f"{param.name} and its .bin are no NCNN model")

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = []
        for image in np.ascontiguousarray(images):  # ncnn reads its memory
            with net.create_extractor() as extractor:
                extractor.input(net.input_names()[0], nc.Mat(image))
                found.append([np.array(extractor.extract(name)[1]) for name in sorted(net.output_names())])
        return [np.stack(output) for output in zip(*found, strict=True)]

    return run


def opencv(file: Path, threads: int) -> Run:
    """An .onnx file in OpenCV's DNN module, on the CPU."""
    import cv2

    net = cv2.dnn.readNetFromONNX(str(file))

    def run(images: np.ndarray) -> list[np.ndarray]:
        before = cv2.getNumThreads()
        cv2.setNumThreads(threads)  # of the process: others may want another number
        try:
            net.setInput(images)
            return [np.array(v) for v in net.forward(net.getUnconnectedOutLayersNames())]
        finally:
            cv2.setNumThreads(before)

    return run


def litert(file: Path, threads: int) -> Run:
    """A .tflite file as Ultralytics writes it, in LiteRT, on the CPU, as many images at a time as it was exported for.

    It gives out boxes as shares of the image's sides, so that INT8 has room for scores; here they are pixels again.
    """
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(file) as told:
        in_pixels = json.loads(told.read("metadata.json")).get("end2end", False)
    interpreter = Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (takes,), gives = interpreter.get_input_details(), interpreter.get_output_details()
    batch = int(takes["shape"][0])

    def run(images: np.ndarray) -> list[np.ndarray]:
        height, width = images.shape[-2:]
        found = []
        for part in np.split(images, len(images) // batch):
            interpreter.set_tensor(takes["index"], part)
            interpreter.invoke()
            found.append([interpreter.get_tensor(output["index"]) for output in gives])
        outputs = [np.concatenate(output) for output in zip(*found, strict=True)]
        if not in_pixels:
            outputs[0][:, :4] *= np.array([width, height, width, height], np.float32)[:, None]
        return outputs

    return run


def ultralytics(file: Path, threads: int) -> Run:
    """Whatever else Ultralytics exports, in the backend that it has for it, with threads as that one likes."""
    import torch
    from ultralytics.nn.autobackend import AutoBackend

    with offline():
        model = AutoBackend(str(file), device=torch.device("cuda:0" if file.suffix == ".engine" else "cpu"))

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        found = model(torch.from_numpy(images).to(model.device))
        return [v.float().cpu().numpy() for v in (found if isinstance(found, (tuple, list)) else [found])]

    return run
