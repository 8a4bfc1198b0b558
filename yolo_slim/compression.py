"""Methods beside channel pruning, on a detector in memory; nothing is trained, and no file is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from yolo_slim import checkpoint
from yolo_slim.compress import Material
from yolo_slim.compress.apply import Compressed, applied
from yolo_slim.config import Complete, check
from yolo_slim.errors import SlimError
from yolo_slim.given import Given, batches_of, detector_from, own_size, plain, size_of
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.stages.chain import Turn, chain_of
from yolo_slim.stages.compress import marked, zeros_of


@dataclass(frozen=True)
class Compression:
    """What methods have made of a detector, one after the other."""

    model: nn.Module
    steps: tuple[Compressed, ...]

    def __repr__(self) -> str:
        return f"<Compression: {', '.join(map(repr, self.steps))}>"


def compress(
    detector: Given,
    methods: Sequence[str | Mapping[str, Any]],
    *,
    imgsz: int | None = None,
    data: str | os.PathLike[str] | None = None,
    calibration: Tensor | Iterable[Tensor] | None = None,
    calib_images: int = 256,
    seed: int = 0,
) -> Compression:
    """Make a detector smaller by methods other than channel pruning, in order; the input is left alone.

    Nothing is trained: `yolo-slim compress` holds what was made in training, where an entry has epochs.

    Args:
        detector: a path, a YOLO object or a module, e.g. from `yolo_slim.load` or `prune(...).model`.
        methods: names, or {name: {setting: value}}, as the `compress` setting has them, without `prune`: e.g.
            [{"low_rank": {"energy": 0.97}}, {"weights": {"pattern": "2:4"}}].
        imgsz: image side in pixels; None: the one that the detector was trained at, 640 if it does not say.
        data: an Ultralytics data-set YAML, of whose training images `calib_images` are looked at, without labels.
        calibration: batches (B, C, H, W) in [0, 1] to look at instead; or one of them. Without either nothing is
            refitted by least squares, and methods that have to look at images are refused.
        calib_images: images of `data` that are looked at.
        seed: of what is drawn.

    Raises:
        SlimError: no detector, a method that is not known, set wrongly, needs training or images, has nothing to do,
            comes in the wrong order, or fails its proof.
    """
    module = detector_from(detector)
    side = plain(imgsz) if imgsz is not None else own_size(module)
    given = [dict(each) if isinstance(each, Mapping) else each for each in methods]
    asked = {"model": "the detector given", "imgsz": side, "compress": given, "seed": plain(seed)}
    asked |= {"prune": {"calib_images": plain(calib_images)}, "data": None if data is None else os.fspath(data)}
    config = Complete.of(check(asked, "yolo_slim.compress()"))
    chain = chain_of(config)
    _check_here(chain.prunes, chain.behind)
    size_of(module, config.imgsz)
    images = evidence_from(config, module).images
    if calibration is not None:
        images = batches_of(calibration, module, config.imgsz)
    steps: list[Compressed] = []
    for turn in chain.behind:
        material = Material(config.imgsz, images, zeros_of(step.plan for step in steps), config.seed)
        made = applied(module, turn.method, material, refits=turn.step.refit)
        module = marked(made) if checkpoint.is_detector(made.model) else made.model
        steps.append(made)
    return Compression(module, tuple(steps))


def _check_here(prunes: bool, turns: tuple[Turn, ...]) -> None:
    if prunes:
        raise SlimError("yolo_slim.compress(): channels are cut by yolo_slim.prune(); leave prune out of methods")
    if not turns:
        raise SlimError("yolo_slim.compress(): expected methods, e.g. [{'weights': {'sparsity': 0.5}}], got none")
    if trains := [turn.step.method for turn in turns if turn.step.epochs or turn.step.match]:
        raise SlimError(
            f"yolo_slim.compress() trains nothing, and {trains[0]} asks for epochs or match: leave them out, or run "
            "`yolo-slim compress` with a data set"
        )
