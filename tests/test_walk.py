"""The way of a new user, as docs/get-started.md and docs/export.md tell it: from VOC's XML to boxes in onnxruntime."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from tiny import PX, ROOT, TINY, run, script
from ultralytics import YOLO
from ultralytics.utils import DEFAULT_CFG

SETTINGS = [f"imgsz={PX}", "prune.round_to=4", "prune.min_channels=4", "report.latency_runs=1", "bench.runs=3"]
LAX = ["export.formats=[onnx]", "export.images=2", "export.map_tolerance=1", "finetune.epochs=1"]


def to_voc(shapes: Path, out: Path) -> None:
    """Drawn shapes as an annotation tool would leave them: pictures, an XML each, no splits."""
    names = yaml.safe_load((shapes / "shapes.yaml").read_text())["names"]
    for folder in ("JPEGImages", "Annotations"):
        (out / folder).mkdir(parents=True)
    for picture in sorted((shapes / "images").rglob("*.png")) + sorted((shapes / "images").rglob("*.jpg")):
        name = f"{picture.parent.name}_{picture.stem}"
        (out / "JPEGImages" / f"{name}{picture.suffix}").write_bytes(picture.read_bytes())
        objects = ""
        label = shapes / "labels" / picture.parent.name / f"{picture.stem}.txt"
        for line in label.read_text().splitlines():
            kind, cx, cy, w, h = map(float, line.split())
            edges = {"xmin": cx - w / 2, "ymin": cy - h / 2, "xmax": cx + w / 2, "ymax": cy + h / 2}
            box = "".join(f"<{key}>{round(PX * value)}</{key}>" for key, value in edges.items())
            objects += f"<object><name>{names[int(kind)]}</name><bndbox>{box}</bndbox></object>"
        (out / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_from_xml_to_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DEFAULT_CFG, "plots", False)
    to_voc(script("make_shapes").draw(Path("shapes"), train=12, val=2, test=2, imgsz=PX, seed=0).parent, Path("voc"))
    words = [sys.executable, "-m", "yolo_slim.data.voc", "voc", "--out", "data/mine"]
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 0 and "split 80/10/10 at random" in told.stdout, told

    Path("tiny.yaml").write_text(TINY)
    stock = YOLO("tiny.yaml")
    trained = str(tmp_path / "trained")
    stock.train(data="data/mine/mine.yaml", epochs=1, imgsz=PX, batch=4, device="cpu", verbose=False, project=trained)
    (best,) = Path(trained).rglob("best.pt")

    answer = run("inspect", best)
    assert answer.code == 0, answer
    named = [f"model={best}", "data=data/mine/mine.yaml", "name=mine", *SETTINGS]
    answer = run("run", *named, "prune.target.flops=0.6", "prune.calib_images=4", "bench.runtimes=[torch]", *LAX)
    assert answer.code == 0, answer
    made = Path("runs/mine")
    assert (made / "report" / "report.html").exists()

    picture = next(Path("data/mine/images/train").iterdir())
    cv2.imwrite("image.jpg", cv2.imread(str(picture)))
    Path("slim.onnx").write_bytes((made / "export" / "slim.onnx").read_bytes())
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL)
    code = next(block for block in blocks if "onnxruntime" in block).replace("320", str(PX)).replace("0.25", "0")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/export.md", "exec"), {})
    kind, score, box = re.match(r"(\d+) ([\de.-]+) \[(.*?)\]", out.getvalue()).groups()
    assert int(kind) < 4 and 0 < float(score) < 1 and len(box.split()) == 4
