"""Trains tiny detectors with the Ultralytics that is installed, and keeps their checkpoints, for tests/corpus.

    python scripts/make_shapes.py --out data/corpus --train 8 --val 4 --test 0 --imgsz 64
    python -m venv old && old/bin/pip install ultralytics==8.0.196
    old/bin/python scripts/make_corpus.py --data data/corpus/shapes.yaml

Run by the Python of each version that is to be in it; nothing of this package is imported. Every family of detectors
that the version can build gives two files: `FAMILY-VERSION-final.pt`, what training leaves, and `-midway.pt`, what it
writes after its first epoch, with the optimizer and the average of the weights. A family that the version does not know
is named and left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Before Ultralytics is imported. Releases up to 8.2 read their own checkpoints as torch did before it had a restricted
# reader; nothing but what was just trained here is read.
os.environ["YOLO_OFFLINE"] = "true"
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp()  # settings of another version are in the way

import numpy as np
import torch

if not hasattr(np, "trapz"):  # gone in NumPy 2.4; releases up to 8.2 call it
    np.trapz = np.trapezoid

from ultralytics import YOLO, __version__

FAMILIES = {
    "v5": """\
nc: 4
backbone:
  - [-1, 1, Conv, [8, 6, 2, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, C3, [8]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 2, C3, [16]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, SPPF, [16, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C3, [16, False]]
  - [[9], 1, Detect, [nc]]
""",
    "v3-tiny": """\
nc: 4
backbone:
  - [-1, 1, Conv, [8, 3, 1]]
  - [-1, 1, nn.MaxPool2d, [2, 2, 0]]
  - [-1, 1, Conv, [8, 3, 1]]
  - [-1, 1, nn.MaxPool2d, [2, 2, 0]]
  - [-1, 1, Conv, [16, 3, 1]]
  - [-1, 1, nn.MaxPool2d, [2, 2, 0]]
  - [-1, 1, Conv, [16, 3, 1]]
  - [-1, 1, nn.ZeroPad2d, [[0, 1, 0, 1]]]
  - [-1, 1, nn.MaxPool2d, [2, 1, 0]]
head:
  - [-1, 1, Conv, [16, 1, 1]]
  - [[9], 1, Detect, [nc]]
""",
    "v8": """\
nc: 4
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, C2f, [8, True]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, SPPF, [16, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [16]]
  - [[9], 1, Detect, [nc]]
""",
    "v11": """\
nc: 4
scale: n
scales: {n: [1.0, 1.0, 1024]}
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C3k2, [16, False, 0.25]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C3k2, [16, True]]
  - [-1, 1, Conv, [128, 1, 1]]
  - [-1, 1, C2PSA, [128]]
head:
  - [-1, 1, Conv, [16, 1, 1]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C3k2, [16, False]]
  - [[9], 1, Detect, [nc]]
""",
}
FAMILIES["v5-two"] = FAMILIES["v5"].replace("[[9], 1, Detect", "[[9, 6], 1, Detect")  # 8.4.0 knows none with one stride
"""Parts of stock detectors, few and narrow: a file of 100 to 200 kB has every kind of object that a large one has."""


def train(family: str, data: Path, out: Path) -> list[Path]:
    """Two epochs of one family; the files that were kept."""
    kept = {state: out / f"{family}-{__version__}-{state}.pt" for state in ("midway", "final")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(data.parent, Path(folder) / "data")  # a checkpoint names its data: no path of anybody's home
        (Path(folder) / f"{family}.yaml").write_text(FAMILIES[family])
        model = YOLO(f"{folder}/{family}.yaml")

        def keep(trainer: object) -> None:
            if trainer.epoch == 0:
                shutil.copyfile(trainer.last, kept["midway"])

        model.add_callback("on_model_save", keep)
        model.train(
            data=f"{folder}/data/{data.name}",
            epochs=2,
            imgsz=64,
            batch=4,
            workers=0,
            device="cpu",
            optimizer="SGD",
            project=folder,
            name="train",
            plots=False,
            amp=False,
            verbose=False,
        )
        shutil.copyfile(Path(folder) / "train" / "weights" / "best.pt", kept["final"])
    return list(kept.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Train every family and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the YAML of a drawn data set (make_shapes.py)")
    parser.add_argument("--out", type=Path, default=Path("tests/corpus"), help="folder (default: %(default)s)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="default: all")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for family in args.families:
        try:
            for path in train(family, args.data.resolve(), args.out.resolve()):
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        except (KeyError, NameError, IndexError) as e:
            print(f"{family}: not for Ultralytics {__version__} ({e})")


if __name__ == "__main__":
    main()
