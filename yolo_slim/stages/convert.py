"""Convert: one detector as another kind of file, with nothing lost, and the proof that nothing was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolo_slim import checkpoint, deploy
from yolo_slim.channels import image_channels
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError, plain
from yolo_slim.formats.yolov5.model import AnchorModel
from yolo_slim.formats.yolov5.unrolled import unrolled
from yolo_slim.scratch import Scratch, temporary

SEED = 0
ROUNDED = 2e-3
"""By which a checkpoint in fp16 may differ from what it was made of, relative."""


def convert(config: Complete) -> Path:
    """The detector of `model` as the file `convert.to`; a folder for formats that are one."""
    if not config.convert.to:
        raise SlimError("convert.to: needed, e.g. convert.to=yolov3.onnx, slim.cfg or slim.pt")
    target = Path(config.convert.to)
    detector = checkpoint.load(config.model, config.weights)
    kinds = (".pt", *checkpoint.suffixes(detector))
    written = _unrolled(detector, target) if config.convert.unrolled else detector
    format = None if target.suffix in kinds else _format(target, kinds)
    if target.exists() and target.resolve() == Path(config.model).resolve():
        raise SlimError(f"convert.to={plain(target)} is the model itself: give another name")
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand(1, image_channels(detector, config.imgsz), config.imgsz, config.imgsz, generator=generator)
    card = checkpoint.card(Path(config.model)) if checkpoint.is_stored(config.model) else {}
    with temporary():
        target.parent.mkdir(parents=True, exist_ok=True)
        if format is None:
            checkpoint.save(written, target, **({checkpoint.CARD: card} if card else {}))
            apart: float | None = _apart(detector, checkpoint.load(target), image)
            most = ROUNDED
        else:
            with Scratch() as folder:
                weights = checkpoint.save(detector, Path(folder) / "model.pt")
                deploy.export_file(weights, target, config.imgsz, format, card=card or None)
            run = deploy.opened(target, deploy.runtime_of(format), 1)
            apart, most = deploy.difference(detector, run, [image]), config.export.tolerance
    if apart is not None and not apart <= most:
        raise SlimError(f"{plain(target)} answers otherwise than {config.model}, by {apart:.1e}: it is not to be used")
    said = "its rows are detections, which are not compared" if apart is None else f"answers differ by {apart:.1e}"
    console.print(f"{config.model} -> {target}: {said}", markup=False)
    return target


def _unrolled(detector: nn.Module, target: Path) -> nn.Module:
    if not isinstance(detector, AnchorModel) or target.suffix != ".pt":
        raise SlimError("convert.unrolled: makes a checkpoint of ultralytics/yolov5, a .pt, of one: leave it out")
    return unrolled(detector)


def _format(target: Path, kinds: tuple[str, ...]) -> str:
    """Ultralytics' exporter's word for how a name ends."""
    known = {deploy.suffix(name): name for name in ("torchscript", "onnx", "openvino", "ncnn")}
    found = next((name for end, name in known.items() if target.name.endswith(end)), None)
    if found is None:
        raise SlimError(
            f"convert.to={plain(target)}: this detector becomes a file that ends in {', '.join([*kinds, *known])}; "
            "other formats are `yolo-slim export`'s"
        )
    return found


@torch.no_grad()
def _apart(before: nn.Module, after: nn.Module, image: torch.Tensor) -> float:
    """Largest difference of two detectors' answers, relative to the largest number."""
    told, said = ((out[0] if isinstance(out, (tuple, list)) else out).numpy() for out in (before(image), after(image)))
    if told.shape != said.shape:
        return float("inf")
    return float(np.abs(told - said).max() / max(np.abs(told).max(), 1e-12))
