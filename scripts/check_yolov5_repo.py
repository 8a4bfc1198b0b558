"""Whether a checkout of ultralytics/yolov5 makes of a file that yolo-slim wrote what yolo-slim makes of it.

    python scripts/check_yolov5_repo.py --repo yolov5 --weights runs/slim/finetuned/slim.pt \
        --images data/images/val --data data/my.yaml --imgsz 416 --python yolov5/.venv/bin/python

Runs `detect`, `val` and `export` of the checkout (v6.0 or later) in processes of their own, with the Python that has
its requirements, and compares: boxes and scores of every image, mAP, and the exported ONNX on noise. Prints one row
each; the last line is a JSON object. Exit 1 where something differs by more than its bound.

Detections differ by a pixel or two, since `detect` rounds its boxes; mAP by what the two evaluators differ in for the
same detector (how images are made smaller, and which boxes are dropped: the bound is --map-tolerance).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils.patches import imread

import yolo_slim
from yolo_slim.console import quietly
from yolo_slim.data import dataset_info
from yolo_slim.deploy import opened
from yolo_slim.measure import accuracy
from yolo_slim.measure.detections import detections

CONFIDENCE, IOU = 0.25, 0.7
PIXELS = 2.0
"""Of a side of a box in the image: `detect` rounds to whole ones, and Ultralytics what a square is padded with."""
SCORE = 2e-3
ONNX = 1e-4
"""Relative to the largest coordinate; scores as they are."""

DETECT = """
import detect
load = detect.LoadImages
detect.LoadImages = lambda *p, **k: load(*p, **{**k, "auto": False})  # squares, as exported files take them
detect.run(weights=a["weights"], source=a["images"], data=a["data"] or "data/coco128.yaml",
           imgsz=(a["imgsz"],) * 2, conf_thres=a["confidence"], iou_thres=a["iou"], device="cpu", save_txt=True,
           save_conf=True, nosave=True, project=a["out"], name="found", exist_ok=True)
"""
VAL = """
import val
found = val.run(data=a["data"], weights=a["weights"], imgsz=a["imgsz"], iou_thres=a["iou"], device="cpu", plots=False,
                batch_size=8, workers=0, half=False, project=a["out"], name="val", exist_ok=True)
out = {"map50": float(found[0][2]), "map50_95": float(found[0][3])}
"""
EXPORT = """
import functools, torch
torch.onnx.export = functools.partial(torch.onnx.export, **a["onnx"])  # newer torch has another exporter by default
import export
export.run(weights=a["weights"], imgsz=(a["imgsz"],) * 2, include=("torchscript", "onnx"), opset=a["opset"])
"""
CHILD = """
import json, sys
import numpy as np
sys.path.insert(0, ".")
for name, kind in (("int", int), ("float", float), ("bool", bool), ("trapz", getattr(np, "trapezoid", None))):
    vars(np).setdefault(name, kind)  # dropped since old releases were made
a, out = json.loads(sys.argv[1]), None
"""
TELL = "print(chr(10) + json.dumps(out))"


def main() -> int:
    """Compare and print; how many comparisons failed."""
    args = arguments()
    detector = yolo_slim.load(args.weights)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        copied = Path(shutil.copy(args.weights, out / "checked.pt"))
        given = {"weights": str(copied), "images": str(args.images.absolute()), "imgsz": args.imgsz, "out": folder,
                 "data": described(args.data, out) if args.data else None, "confidence": CONFIDENCE, "iou": IOU,
                 "opset": 17, "onnx": {"dynamo": False} if args.torch_2_5 else {}}  # fmt: skip
        rows = [detected(args, given, detector)]
        rows += [validated(args, given, detector)] if args.data else []
        rows += [exported(args, given, detector)]
    for row in rows:
        told = "  ".join(f"{name} {shown(value)}" for name, value in row.items() if name not in ("what", "fits"))
        print(f"{row['what']:8} {'agrees' if row['fits'] else 'DIFFERS'}  {told}")
    print(json.dumps({"repo": str(args.repo), "weights": str(args.weights), "rows": rows}))
    return sum(not row["fits"] for row in rows)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="a checkout of ultralytics/yolov5, v6.0 or later")
    parser.add_argument("--weights", type=Path, required=True, help="what yolo-slim wrote")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images to detect in")
    parser.add_argument("--data", type=Path, help="a data-set YAML to validate on; without it mAP is not compared")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--python", default=sys.executable, help="the Python that has the checkout's requirements")
    parser.add_argument("--map-tolerance", type=float, default=0.03, help="by how much mAP50-95 may differ")
    parser.add_argument("--torch-2-5", action="store_true", help="that Python has torch 2.5 or later")
    return parser.parse_args()


def ran(args: argparse.Namespace, code: str, given: dict[str, Any]) -> Any:
    """What code comes to in the checkout, in a process of its own, which downloads nothing."""
    settings = Path(given["out"]) / "settings"
    settings.mkdir(exist_ok=True)
    for font in ("Arial.ttf", "Arial.Unicode.ttf"):
        (settings / font).touch()  # else it is downloaded
    environment = {
        "YOLOV5_CONFIG_DIR": str(settings),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    command = [args.python, "-c", CHILD + code + TELL, json.dumps(given)]
    done = subprocess.run(
        command, cwd=args.repo, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{args.repo}:\n{code}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def described(data: Path, out: Path) -> str:
    """A data-set YAML as releases of any age read it: whole paths, `nc`, a list of names."""
    info = dataset_info(str(data))
    places = {split: info[split] for split in ("train", "val")}
    told = {**places, "nc": len(info["names"]), "names": list(info["names"].values())}
    (out / "data.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return str(out / "data.yaml")


def shown(value: Any) -> str:
    """Short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def detected(args: argparse.Namespace, given: dict[str, Any], detector: nn.Module) -> dict[str, Any]:
    """The same boxes in every image."""
    files = sorted(p for p in args.images.iterdir() if p.suffix[1:].lower() in IMG_FORMATS)
    ran(args, DETECT, given)
    ours = detections(detector, (imread(str(file)) for file in files), args.imgsz)
    worst, worst_score, counts = 0.0, 0.0, [0, 0]
    for file, boxes in zip(files, ours, strict=True):
        label = Path(given["out"]) / "found" / "labels" / f"{file.stem}.txt"
        theirs = np.loadtxt(label, ndmin=2) if label.exists() else np.zeros((0, 6))
        height, width = imread(str(file)).shape[:2]
        found = theirs[:, 1:5] * [width, height, width, height]
        corners = np.concatenate((found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2), 1)
        counts = [counts[0] + len(boxes), counts[1] + len(theirs)]
        for box in boxes:
            same = theirs[:, 0] == box["id"] if len(theirs) else np.zeros(0, bool)
            gaps = np.abs(corners[same] - box["xyxy"]).max(1) if same.any() else np.array([np.inf])
            worst = max(worst, float(gaps.min()))
            if same.any():
                worst_score = max(worst_score, abs(float(theirs[same, 5][gaps.argmin()]) - box["score"]))
    fits = worst <= PIXELS and worst_score <= SCORE and counts[0] == counts[1]
    return {"what": "detect", "fits": fits, "images": len(files), "boxes": counts[0], "theirs": counts[1],
            "largest_px": worst, "largest_score": worst_score}  # fmt: skip


def validated(args: argparse.Namespace, given: dict[str, Any], detector: nn.Module) -> dict[str, Any]:
    """mAP of either evaluator."""
    theirs = ran(args, VAL, given)
    with quietly():
        ours = accuracy(detector, str(args.data), args.imgsz, "val")
    gap = ours["map50_95"] - theirs["map50_95"]
    return {"what": "val", "fits": abs(gap) <= args.map_tolerance, "map50_95": ours["map50_95"],
            "theirs": theirs["map50_95"], "map50": ours["map50"], "theirs_50": theirs["map50"]}  # fmt: skip


def exported(args: argparse.Namespace, given: dict[str, Any], detector: nn.Module) -> dict[str, Any]:
    """The checkout's own ONNX beside the detector, on noise."""
    ran(args, EXPORT, given)
    image = torch.rand(1, 3, args.imgsz, args.imgsz, generator=torch.Generator().manual_seed(0))
    rows = opened(Path(given["weights"]).with_suffix(".onnx"), "onnxruntime", 1)(image.numpy())[0]
    theirs = np.concatenate((rows[..., :4], rows[..., 4:5] * rows[..., 5:]), 2).transpose(0, 2, 1)
    with torch.no_grad():
        ours = detector(image)[0].numpy()
    boxes = float(np.abs(theirs[:, :4] - ours[:, :4]).max() / np.abs(ours[:, :4]).max())
    scores = float(np.abs(theirs[:, 4:] - ours[:, 4:]).max())
    written = Path(given["weights"]).with_suffix(".torchscript").exists()
    fits = boxes <= ONNX and scores <= ONNX and written
    return {"what": "export", "fits": fits, "boxes": boxes, "scores": scores, "torchscript": written}


if __name__ == "__main__":
    sys.exit(main())
