"""Files that a detector of ultralytics/yolov5 is exported to give what it gives, in the layout that runtimes read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import PX
from yolov5_files import of, small

import yolo_slim
from yolo_slim.deploy import card_in, difference, export_file, missing, opened, runtime_of, suffix

IMAGES = [torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.mark.parametrize("format", ["onnx", "torchscript", "openvino", "ncnn"])
def test_a_file_agrees_with_the_detector(format: str, tmp_path: Path) -> None:
    """Of v2.0, whose Focus NCNN cannot slice."""
    if lacking := missing([format]):
        pytest.skip(f"{', '.join(lacking)} not installed")
    file = export_file(of("v2.0"), tmp_path / f"slim{suffix(format)}", PX, format, card={"steps": []})
    found = difference(yolo_slim.load(of("v2.0")), opened(file, runtime_of(format), 1), IMAGES)
    assert found is not None and found < 1e-5
    assert card_in(file) == {"steps": []}


def test_a_file_of_any_size_counts_its_cells_anew(tmp_path: Path) -> None:
    path = small(tmp_path)
    run = opened(export_file(path, tmp_path / "slim.onnx", PX, "onnx", dynamic=True), "onnxruntime", 1)
    detector, image = yolo_slim.load(path), torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        assert (detector(image)[0] - torch.from_numpy(run(image.numpy())[0])).abs().max() < 1e-3
