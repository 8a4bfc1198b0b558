"""A slim YOLOv5 detector as plain layers: its answers, and whether its YAML builds it as the repository builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PX, refused, run
from torch import nn
from yolov5_files import of, small

import yolo_slim
from yolo_slim import SlimError, checkpoint
from yolo_slim.formats.yolov5.unrolled import unrolled

pytest_plugins = ["tiny"]

IMAGE = torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths of multiples of 8, a branch of two taken out. Read only."""
    folder = tmp_path_factory.mktemp("slim")
    pruned = yolo_slim.prune(small(folder), imgsz=PX, ratio=0.4, criterion="l1", min_channels=8, round_to=8)
    return yolo_slim.save(pruned.model, folder / "slim.pt")


def widths_built(yaml: dict[str, Any]) -> list[int]:
    """Outputs of each layer by the repository's rules: convolutions' are rounded up to eights, a share is cut off."""
    found: list[int] = [3]
    for f, _, name, args in yaml["backbone"] + yaml["head"]:
        into = [found[i if i < 0 else i + 1] for i in ([f] if isinstance(f, int) else f)]
        width = -(-args[0] // 8) * 8 if name in ("Conv", "Bottleneck") else sum(into)
        found.append(width)
    return found[1:]


@torch.no_grad()
def test_it_answers_the_same(slim: Path, tmp_path: Path) -> None:
    detector = yolo_slim.load(slim)
    flat = yolo_slim.load(yolo_slim.save(unrolled(detector), tmp_path / "flat.pt"))
    assert torch.equal(flat(IMAGE)[0], detector(IMAGE)[0])
    assert len(flat.model) > len(detector.model) and not checkpoint.is_slim(flat)


def test_its_yaml_describes_it(slim: Path) -> None:
    flat = unrolled(yolo_slim.load(slim))
    for width, layer, (f, _, name, args) in zip(
        widths_built(flat.yaml), flat.model, flat.yaml["backbone"], strict=True
    ):
        assert layer.f == f
        if name == "Conv":
            conv = layer.conv
            assert [conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.groups] == args
            assert conv.out_channels == width
        if name == "Bottleneck":
            assert layer.cv2.conv.out_channels == width and layer.cv1.conv.out_channels == int(args[0] * args[3])
            assert layer.add is args[1] and layer.cv2.conv.kernel_size == (3, 3)
    assert flat.yaml["backbone"][-1][2:] == ["Detect", ["nc", "anchors"]] and flat.yaml["nc"] == 4


def test_anchors_are_told_in_pixels(slim: Path) -> None:
    detector = yolo_slim.load(slim)
    assert unrolled(detector).yaml["anchors"][0] == [8, 8, 12, 16, 20, 14]


def test_the_detector_is_left_alone(slim: Path) -> None:
    detector = yolo_slim.load(slim)
    before = [(layer.i, layer.f) for layer in detector.model]
    unrolled(detector)
    assert [(layer.i, layer.f) for layer in detector.model] == before


def test_widths_that_the_repository_would_round_are_refused(tmp_path: Path) -> None:
    pruned = yolo_slim.prune(small(tmp_path), imgsz=PX, ratio=0.4, criterion="l1", min_channels=1, round_to=1)
    with pytest.raises(SlimError, match=r"multiples of 8 \(prune.round_to=8\)"):
        unrolled(pruned.model)


def test_a_layer_that_is_not_taken_apart_is_refused() -> None:
    with pytest.raises(SlimError, match=r"model\.0 is a Focus"):
        unrolled(yolo_slim.load(of("v5.0")))


def test_another_activation_is_refused(slim: Path) -> None:
    detector = yolo_slim.load(slim)
    detector.model[0].act = nn.LeakyReLU(0.1)
    with pytest.raises(SlimError, match="LeakyReLU"):
        unrolled(detector)


def test_convert_writes_it(slim: Path, tmp_path: Path) -> None:
    answer = run("convert", f"model={slim}", f"convert.to={tmp_path / 'flat.pt'}", "convert.unrolled=true")
    assert answer.code == 0 and "answers differ by 0.0e+00" in answer.out, answer
    assert checkpoint.read(tmp_path / "flat.pt")["model"].yaml["backbone"][0][2] == "Conv"


def test_what_is_no_such_checkpoint_is_refused(original: Path, slim: Path, tmp_path: Path) -> None:
    words = ["convert.unrolled=true", f"imgsz={PX}"]
    refused(run("convert", f"model={original}", f"convert.to={tmp_path / 'a.pt'}", *words), "convert.unrolled")
    refused(run("convert", f"model={slim}", f"convert.to={tmp_path / 'a.onnx'}", *words), "convert.unrolled")
    assert not [*tmp_path.iterdir()]
