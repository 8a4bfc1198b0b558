"""Model YAMLs that no detector can be built from, or whose texts want to be evaluated."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import yaml
from make_corpus import FAMILIES

from fuzzing.case import Case
from fuzzing.checkpoints import odd, shown
from fuzzing.exports import TEXTS, mutated

EVIL = "__import__('os').system('touch fuzzcanary')"
LAYERS: list[Any] = [
    [-1, 10**7, "Conv", [8]], [-1, 10**4, "C3", [8]], [-1, -1, "Conv", [8]], [-1, 1.5, "Conv", [8]], [-1, "1", "Conv",
    [8]],
    [-1, 1, "os.system", ["touch fuzzcanary"]], [-1, 1, EVIL, []], [-1, 1, "nn.functional", []], [-1, 1, "nn.Linear",
    [10**5, 10**5]],
    [-1, 1, "torchvision.ops.DeformConv2d", [8, 8, 3]], [-1, 1, "torchvision.ops.misc.os.system", ["touch fuzzcanary"]],
    [-1, 1, "TorchVision", [8, "resnet18", "DEFAULT", True, 2]], [-1, 1, "Index", [8, 0]], [-1, 1, "nn.Module", []],
    [-1, 1, "C3k2", [8]],
    [-1, 1, "Conv", [10**9, 3]], [-1, 1, "Conv", [8, 10**5]], [-1, 1, "Conv", [8, 3, 0]], [-1, 1, "Conv", [8, 3, -1]],
    [-1, 1, "Conv", []],
    [-1, 1, "Conv", [EVIL, 3]], [-1, 1, "Conv", ["nc", 3]], [-1, 1, "Conv", ["d", 3]], [-1, 1, "Conv", [[8], 3]], [-1,
    1, "Conv", [None]],
    [-1, 1, "nn.Upsample", [None, 1e6, "nearest"]], [-1, 1, "nn.Upsample", [None, -1, "nearest"]], [99, 1, "Conv", [8]],
    ["x", 1, "Conv", [8]],
    [[-1, 99], 1, "Concat", [1]], [[-1, -2], 1, "Concat", [7]], [[], 1, "Concat", [1]], [None, 1, "Conv", [8]], [-50, 1,
    "Conv", [8]], [],
    [-1, 1, "Conv"], [-1], "x", None, 3, {}, [-1, 1, "nn.MaxPool2d", [10**6]], [-1, 1, "nn.ZeroPad2d", [[10**6] * 4]],
    [-1, 1, None, []],
    [-1, 1, "nn.Sequential", []], [-1, 1, "nn.Identity", []], [-1, 1, "Detect", [4]], [-1, 1, "Segment", [4, 32, 256]],
    [-1, 1, "Classify", [4]],
    [-1, 1, "RTDETRDecoder", [4]], [-1, 1, "nn.LSTM", [8, 8]], [-1, 1, "nn.BatchNorm2d", []], [-1, 1, "nn.ReLU", []],
    [-1, 1, "C2PSA", [8]],
    [-1, 1, "nn.Conv2d", [8, 8, 3]], [-1, 1, "nn.modules.conv.os.system", []], [-1, 1, "__import__", ["os"]], [-1, 1,
    "nn.Dropout", ["x"]],
]  # fmt: skip
"""In the place of a layer."""


def case(rng: random.Random, work: Path) -> Case:
    """A key or a layer of a right one, or its text."""
    text = FAMILIES[rng.choice(list(FAMILIES))]
    how = rng.random()
    if how < 0.25:
        raw = mutated(rng, text.encode()) if rng.random() < 0.7 else rng.choice(TEXTS)
        told = "bytes"
    else:
        tree = copy.deepcopy(yaml.safe_load(text))
        told = a_layer(rng, tree) if how < 0.65 else a_key(rng, tree)
        try:
            raw = yaml.safe_dump(tree).encode()
        except Exception:  # not what YAML can say
            raw, told = text.encode().replace(b"nc: 4", b"nc: [4"), "a bracket"
    name = rng.choice(["m.yaml", "m.yaml", "m.yml", "yolov5n.yaml", "yolov8-seg.yaml", "m n.yaml"])
    (work / name).write_bytes(raw)
    if rng.random() < 0.1:
        name = rng.choice(
            ["missing.yaml", "yolov5q.yaml", "http://127.0.0.1:9/m.yaml", "yolov8n-cls.yaml", "../m.yaml", ".yaml"]
        )
    return Case(["inspect", f"model={name}", "imgsz=64"], f"{name} {told}")


def a_layer(rng: random.Random, tree: dict) -> str:
    """In the place of one, or one more."""
    part = tree[rng.choice(["backbone", "head"])]
    layer = rng.choice(LAYERS)
    at = rng.randrange(len(part))
    if rng.random() < 0.7:
        part[at] = layer
    else:
        part.insert(at, layer)
    return f"layer {at}: {layer}"


def a_key(rng: random.Random, tree: dict) -> str:
    """Another value, or none."""
    key = rng.choice(["nc", "backbone", "head", "activation", "activation", "scales", "scale", "depth_multiple",
        "width_multiple",
                      "ch", "channels", "slim", "kpt_shape", "names", "reg_max", "end2end", "max_channels",
                      "strides"])  # fmt: skip
    if rng.random() < 0.1:
        tree.pop(key, None)
        return f"without {key}"
    value = rng.choice([odd(rng), EVIL, "nn.ReLU()", "nn.Linear(30000, 30000)", "torch.load('x')",
        f"nn.ReLU() or {EVIL}",
                        {"n": [10**9, 1, 1]}, {"n": [1, 10**6, 10**9]}, {"n": []}, 10**9, {EVIL: 1}, "nn.SiLU",
                        "exec('fuzzcanary = 1')"])  # fmt: skip
    tree[key] = value
    return f"{key}: {shown(value)}"


def benign(rng: random.Random, work: Path) -> Case:
    """The corpus's, Ultralytics' own by name, and with an activation."""
    name = rng.choice(["m.yaml", "yolov5n.yaml", "yolov3-tiny.yaml", "yolov8n.yaml", "yolo11n.yaml"])
    if name == "m.yaml":
        more = rng.choice(
            ["", "activation: nn.ReLU()\n", "activation: nn.LeakyReLU(0.1)\n", "activation: torch.nn.SiLU()\n"]
        )
        (work / name).write_text(more + FAMILIES[rng.choice(list(FAMILIES))])
    return Case(["inspect", f"model={name}", "imgsz=64"], name, benign=True, seconds=20)
