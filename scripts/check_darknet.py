"""A Darknet cfg and its weights in OpenCV 4 and here, whole and cut: do they answer the same, and how fast?

    python -m venv cv4 && cv4/bin/pip install "opencv-python-headless<5"      # OpenCV 5 reads no Darknet files
    python scripts/check_darknet.py yolov4-tiny.cfg yolov3.cfg --python cv4/bin/python
    python scripts/check_darknet.py yolov3.cfg --ratio 0.3 0.5 --keep slim/   # keeps the cut cfgs and weights
    python scripts/check_darknet.py yolov3.cfg --told yolov3_opencv.npz       # answers kept by opencv_darknet.py

Weights lie beside each cfg. Compared on an image of noise are the raw maps, with OpenCV's eps of 1e-6 in the batch
norms, each relative to its largest value, and the decoded boxes (of the image's size) and scores. Cuts are by L1 norm,
with the constants of what goes absorbed; the ONNX file is Ultralytics' exporter's. Milliseconds are those of the
fastest run on two threads, which a busy machine slows down the least. Ends with 1 if a map differs by more than 1e-4.
Without OpenCV 4 only ONNX is compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # before Ultralytics is imported: it looks for a connection then
os.environ.setdefault("YOLO_VERBOSE", "false")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from ultralytics.engine.exporter import Exporter

from yolo_slim.config import check
from yolo_slim.formats import darknet
from yolo_slim.formats.darknet.net import read_net
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.pruning.cut import cut_to_plan

OPENCV = Path(__file__).with_name("opencv_darknet.py")
OPENCV_EPS = 1e-6
ALLOWED = 1e-4
"""Of a raw map, relative to its largest value."""
DROPPED = 0.2
"""Scores up to it are zero in OpenCV."""
THREADS = 2


@dataclass
class Row:
    """One net in one state; None: not measured."""

    net: str
    state: str
    params: int
    maps: float | None = None  # largest relative difference of a raw map
    boxes: float | None = None  # largest difference, of the image's size
    scores: float | None = None
    onnx: float | None = None  # largest difference of rows, relative to the largest
    opencv_ms: float | None = None
    onnx_ms: float | None = None


def noise(model: nn.Module) -> np.ndarray:
    """(1, C, H, W) of the cfg's size, in [0, 1): always the same."""
    return np.random.default_rng(7).random((1, *read_net(model.yaml["darknet"]["cfg"]).image), dtype=np.float32)


def compare(row: Row, model: nn.Module, told: dict[str, np.ndarray]) -> None:
    """Fill a row with what OpenCV's answers differ by.

    Args:
        row: to be filled.
        model: a detector of Darknet.
        told: of each `[yolo]` `raw<i>` (1, H, W, A * (5 + K)) and `decoded<i>` (H * W * A, 5 + K), and the `image`.
    """
    theirs = copy.deepcopy(model)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eps = OPENCV_EPS
    x = torch.from_numpy(told["image"] if "image" in told else noise(model))
    with torch.no_grad():
        boxes, maps = theirs(x)
    at, size, gaps = 0, torch.tensor([x.shape[3], x.shape[2]] * 2), []
    for i, raw in enumerate(maps):
        gap = (raw.permute(0, 2, 3, 1) - torch.from_numpy(told[f"raw{i}"])).abs().max() / raw.abs().max()
        anchors, (h, w) = raw.shape[1] // (5 + theirs.nc), raw.shape[2:]
        mine = boxes[0, :, at : at + anchors * h * w].view(-1, anchors, h, w).permute(2, 3, 1, 0).flatten(0, 2)
        at += anchors * h * w
        decoded = torch.from_numpy(told[f"decoded{i}"])
        heard = decoded[:, 5:] > DROPPED
        scores = (mine[:, 4:] - decoded[:, 5:])[heard].abs()
        gaps.append((gap, (mine[:, :4] / size - decoded[:, :4]).abs().max(), scores.max() if heard.any() else 0))
    row.maps, row.boxes, row.scores = (max(float(gap[i]) for gap in gaps) for i in range(3))


def in_opencv(cfg: Path, weights: Path, model: nn.Module, python: str, runs: int, folder: Path) -> tuple[dict, float]:
    """OpenCV's answers to the image of noise, and its milliseconds."""
    np.save(folder / "image.npy", noise(model))
    command = [python, OPENCV, cfg, weights, folder / "image.npy", folder / "answer.npz", runs]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"OpenCV does not run {cfg}: {done.stderr.strip().splitlines()[-1]}")
    with np.load(folder / "answer.npz") as told:
        return dict(told), min(json.loads(done.stdout.splitlines()[-1])["ms"])


def in_onnxruntime(model: nn.Module, runs: int, folder: Path) -> tuple[float, float]:
    """Relative difference of the exported file's rows to the detector's, and its milliseconds."""
    import onnxruntime

    model, x = copy.deepcopy(model), noise(model)
    with torch.no_grad():
        expected = model(torch.from_numpy(x))[0].numpy()
    model.pt_path = str(folder / "net.pt")
    file = Exporter(overrides={"format": "onnx", "imgsz": list(x.shape[2:]), "device": "cpu", "batch": 1})(model=model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": x})
    gaps = [abs(found[:, rows] - expected[:, rows]).max() / abs(expected[:, rows]).max() for rows in PARTS]
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, {"images": x})
        times.append(1e3 * (time.perf_counter() - start))
    return float(max(gaps)), min(times)


PARTS = (slice(0, 4), slice(4, None))
"""Boxes in pixels must not hide an error in scores."""


def pruned(model: nn.Module, ratio: float, round_to: int) -> nn.Module:
    """Cut by L1 norm to this share of channels less, to multiples of `round_to`."""
    chosen = {"criterion": "l1", "ratio": ratio, "round_to": round_to, "min_channels": 1}
    config = check({"model": "a cfg", "imgsz": model.args["imgsz"], "prune": chosen}, "check_darknet.py")
    return cut_to_plan(model, config.prune, config.imgsz, evidence_from(config, model)).model


def rows_of(cfg: Path, args: argparse.Namespace, folder: Path) -> list[Row]:
    """A net whole, as it is written again, and after each cut."""
    whole = darknet.load(cfg)
    states = {"whole": whole, **{f"cut by {ratio:g}": pruned(whole, ratio, args.round_to) for ratio in args.ratio}}
    found = []
    for i, (state, model) in enumerate(states.items()):
        row = Row(cfg.stem, state, sum(p.numel() for p in model.parameters()))
        out, weights = darknet.save(model, (args.keep or folder) / f"{cfg.stem}_{i}.cfg")
        if args.python:
            told, row.opencv_ms = in_opencv(out, weights, model, args.python, args.runs, folder)
            compare(row, model, told)
        elif args.told and state == "whole":
            with np.load(args.told) as told:
                compare(row, model, dict(told))
        if not args.no_onnx:
            row.onnx, row.onnx_ms = in_onnxruntime(model, args.runs, folder)
        found.append(row)
    return found


def shown(rows: list[Row]) -> Table:
    """As a table; speed beside the whole net's."""
    table = Table("net", "state", "parameters", "maps", "boxes", "scores", "ONNX", "OpenCV ms", "onnxruntime ms")
    small = lambda value: "-" if value is None else f"{value:.1e}"  # noqa: E731
    for row in rows:
        whole = next(other for other in rows if other.net == row.net)
        pairs = (row.opencv_ms, whole.opencv_ms), (row.onnx_ms, whole.onnx_ms)
        ms = ["-" if now is None else f"{now:.2f} ({before / now:.2f}x)" for now, before in pairs]
        gaps = map(small, (row.maps, row.boxes, row.scores, row.onnx))
        table.add_row(row.net, row.state, f"{row.params:,}", *gaps, *ms)
    return table


def main(argv: list[str] | None = None) -> int:
    """The table, and whether all maps agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cfgs", nargs="+", type=Path, help="Darknet cfgs, weights beside them")
    parser.add_argument("--python", help="a Python that has OpenCV 4")
    parser.add_argument("--told", type=Path, help="OpenCV's answers to one whole net, kept before")
    parser.add_argument("--ratio", nargs="*", type=float, default=[0.3], help="channels to cut (default: 0.3)")
    parser.add_argument("--round-to", type=int, default=4, help="widths are multiples of it (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=50, help="timed runs (default: %(default)s)")
    parser.add_argument("--no-onnx", action="store_true", help="ask OpenCV alone")
    parser.add_argument("--keep", type=Path, help="folder for what is written")
    args: Any = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for cfg in args.cfgs:
            rows += rows_of(cfg, args, Path(folder))
    Console(width=160).print(shown(rows))
    if not args.python:
        print("OpenCV 4 was not asked: give --python, a Python with opencv-python-headless<5")
    return int(any(row.maps is not None and not row.maps < ALLOWED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
