"""What export and INT8 cost in accuracy: a line a file, against PyTorch by the same evaluator.

    python scripts/bench_export.py --model runs/bccd/finetuned/slim.pt --data data/bccd/bccd.yaml --imgsz 320

Minutes for a yolov5n on 72 images and one core. Only the table is kept; exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from yolo_slim.config import check
from yolo_slim.report.numbers import table
from yolo_slim.report.tables import EXPORT_HEAD
from yolo_slim.report.tables import exported as line
from yolo_slim.stages.export import complaints, exported


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint, slim or not")
    parser.add_argument("--data", required=True, help="an Ultralytics data-set YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="image side in pixels")
    parser.add_argument("--formats", nargs="*", default=["onnx", "openvino", "torchscript", "ncnn"])
    parser.add_argument("--int8", nargs="*", default=["onnx", "openvino"])
    parser.add_argument("--calib-images", type=int, default=256, help="training images for INT8")
    parser.add_argument("--int8-float", nargs="*", default=["head"], help="what INT8 keeps in float")
    args = parser.parse_args()
    asked = {key: getattr(args, key) for key in ("formats", "int8", "calib_images", "int8_float")}
    config = check({"model": args.model, "data": args.data, "imgsz": args.imgsz, "export": asked})
    with tempfile.TemporaryDirectory() as folder:
        _, rows = exported(config, Path(args.model), Path(folder))
    print(table(EXPORT_HEAD, map(line, rows)))
    wrong = [text for row in rows for text in complaints(row)]
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
