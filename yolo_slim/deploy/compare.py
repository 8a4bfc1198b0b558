"""What an exported file gives out, beside what PyTorch gives: the numbers, and a detector for the evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.engine.exporter import NMSModel
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.deploy.runtimes import Run
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import head_of
from yolo_slim.mould import duplicate


@torch.inference_mode()
def difference(detector: Detector, run: Run, batches: Iterable[Tensor]) -> float | None:
    """Largest difference between a file's raw output and PyTorch's over images (1, C, H, W).

    Boxes are compared relative to the largest coordinate, scores as they are (they are at most 1). None where rows are
    detections, sorted: two that score alike may change places. NaN if there is one in the file's output.
    """
    detector = duplicate(detector).float().cpu().eval()
    worst = 0.0
    for image in batches:
        expected = detector(image)
        expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()  # [1, 4 + K, N]
        if expected.shape[1] != 4 + len(detector.names):
            return None
        got = run(image.numpy())[0]
        boxes, scores = (np.abs(got[:, s] - expected[:, s]).max() for s in (slice(4), slice(4, None)))
        # np.max, unlike max, lets NaN through: it must not pass for agreement
        worst = float(np.max([worst, boxes / np.abs(expected[:, :4]).max(), scores]))
    return worst


class Exported(nn.Module):
    """A file as a detector: images (B, C, H, W) -> what the file gives out, image by image as it was exported.

    Ultralytics' validator takes it like any detector. Its own backends would let the runtime choose the precision
    (bfloat16 in OpenVINO where the chip has it) and the threads: here the file is judged, not those.
    """

    def __init__(self, run: Run, detector: Detector) -> None:
        super().__init__()
        self.run, self.names, self.stride = run, detector.names, detector.stride
        self.end2end = getattr(detector, "end2end", False)

    def forward(self, images: Tensor, **_: object) -> Tensor:
        """Of the file's outputs the first, on the images' device."""
        found = [torch.from_numpy(self.run(image[None].cpu().numpy())[0]) for image in images]
        return torch.cat(found).to(images.device)


def with_nms(detector: Detector) -> nn.Module:
    """A copy that gives out what Ultralytics exports under `nms`: (B, 300, 6), as xyxy, score, class, padded with 0."""
    detector = duplicate(detector).float().cpu().eval()
    head = head_of(detector)
    head.export, head.xyxy, head.format = True, True, "torchscript"
    args = SimpleNamespace(**{**DEFAULT_CFG_DICT, "conf": 0.25, "batch": 1, "format": "torchscript"})
    whole = NMSModel(detector, args)

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        return [whole(torch.from_numpy(images)).numpy()]

    return Exported(run, detector)
