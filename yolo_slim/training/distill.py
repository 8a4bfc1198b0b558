"""DistillTrainer: fine-tuning in which teachers look at the same images.

What is trained besides the student (adapters, generators) lives beside the detector, never in it: the optimizer trains
it, `last.pt` keeps it for a resume, the saved detector has no trace of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor, nn

from yolo_slim import checkpoint
from yolo_slim.data.unlabelled import Unlabelled
from yolo_slim.distill import FEATURES, LOSSES, OUTPUTS, Pair
from yolo_slim.distill.together import Together
from yolo_slim.distill.workers import average_gradients, same_everywhere
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import bins_of, entering, raw
from yolo_slim.training.images import any_labelled, labelled, mixed, paired
from yolo_slim.training.pairs import blocks_of, channels_at, check_sees_the_same, pair, same_channels
from yolo_slim.training.stepping import SteppingTrainer, train_beside
from yolo_slim.training.teacher import Taps, Teacher, scene_of, view_of

SETTINGS = "distill.yaml"
"""In the run folder: teachers (paths), kin (of each: whether the student was cut from it), features and outputs (loss
-> options), layers (the student's module -> the teachers'), ramp_epochs, stop_before, teacher_images, extra_images. A
file, because multi-GPU workers rebuild the trainer from its arguments alone, and so does a resumed run."""


class DistillTrainer(SteppingTrainer):
    """SteppingTrainer with the losses that `SETTINGS` names, each logged under its own name."""

    def setup_model(self) -> dict[str, Any] | None:
        """Load the student, then its teachers and what stands between them."""
        ckpt = super().setup_model()
        self.settings = yaml.safe_load((Path(self.save_dir) / SETTINGS).read_text())
        student = self.detector
        detectors = [checkpoint.load(path) for path in self.settings["teachers"]]
        square = not (self.args.multi_scale or self.args.rect)
        self.teachers, pairs, self.taps = enrol(student, detectors, self.settings, self.args.imgsz, square=square)
        for teacher in self.teachers:
            teacher.to(self.device)
        self.losses = same_everywhere(losses_between(pairs, self.settings).to(self.device))
        return ckpt

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """The images to train on: with what the teacher sees instead, and with those that it alone supervises."""
        dataset = super().build_dataset(img_path, mode, batch)
        if mode != "train":
            return dataset
        if self.settings["teacher_images"]:
            dataset = paired(dataset, self.settings["teacher_images"], self.args)
        if self.settings["extra_images"]:
            try:
                with patch("ultralytics.data.build.YOLODataset", Unlabelled):  # all else as for the labelled ones
                    extra = super().build_dataset(self.settings["extra_images"], mode, batch)
            except SlimError as e:
                raise SlimError(f"finetune.distill.extra_images: {e}") from e
            dataset = mixed(dataset, extra)
        return dataset

    def preprocess_batch(self, batch: dict) -> dict:
        """As Ultralytics', for the teacher's images as well."""
        batch = super().preprocess_batch(batch)
        if "teacher_img" in batch and not isinstance(batch["teacher_img"], Tensor):
            images = torch.stack(batch["teacher_img"]).to(self.device).float() / 255
            size = batch["img"].shape[2:]
            if images.shape[2:] != size:  # multi_scale
                images = nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
            batch["teacher_img"] = images
        return batch

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.losses.load_state_dict(ckpt["distill"])

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Ultralytics' optimizer with what the losses train in a group of its own."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        own = list(self.losses.parameters())
        if own:
            train_beside(optimizer, own)
            optimizer.register_step_pre_hook(self._average_gradients)
        return optimizer

    def _average_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        average_gradients(self.losses)  # they are outside the module that DDP wraps

    def _setup_train(self) -> None:
        super()._setup_train()
        detector = self.detector
        detector.criterion = _WithTeachers(detector.criterion or detector.init_criterion(), self)
        self.add_callback("on_train_batch_start", DistillTrainer._batch_starts)
        self.add_callback("on_train_batch_end", DistillTrainer._batch_ends)

    def _batch_starts(self) -> None:
        if self.taps and self.strength():
            self.taps.open()

    def _batch_ends(self) -> None:
        if self.taps:
            self.taps.close()

    def strength(self) -> float:
        """What all weights are multiplied by in this batch: rises over the ramp; 0 in the last epochs, if asked."""
        if self.epoch >= self.epochs - self.settings["stop_before"]:
            return 0.0
        ramp = self.settings["ramp_epochs"]
        return min(1.0, (self.epoch + self.batches / len(self.train_loader)) / ramp) if ramp else 1.0

    def taught(self, preds: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Name -> weighted loss of this batch, a mean over its images."""
        now = self.strength()
        if not now:
            return {name: raw(preds)["feats"][0].new_zeros(()) for name in self.losses.names}
        seen = batch.get("teacher_img", batch["img"])
        views = [teacher(seen) for teacher in self.teachers]
        student = view_of(preds, self.taps.caught() if self.taps else None)
        scene = scene_of(preds, batch, self.detector.stride.to(self.device))
        return {name: now * loss for name, loss in self.losses(student, views, scene).items()}

    def extra_state(self) -> dict[str, Any]:
        """What the losses have learned, so that a resumed run goes on with it."""
        return {**super().extra_state(), "distill": {k: v.cpu() for k, v in self.losses.state_dict().items()}}

    def label_loss_items(self, loss_items: dict | None = None, prefix: str = "train") -> Any:
        """As Ultralytics', without validation columns of ours: teachers do not look at validation images."""
        items = super().label_loss_items(loss_items, prefix)
        if prefix != "val":
            return items
        ours = {f"val/{name}" for name in self.losses.names}
        if isinstance(items, dict):
            return {k: v for k, v in items.items() if k not in ours}
        return [k for k in items if k not in ours]


def enrol(
    student: Detector, detectors: Sequence[Detector], settings: Mapping[str, Any], imgsz: int, *, square: bool
) -> tuple[list[Teacher], list[Pair], Taps | None]:
    """Make teachers of detectors, and find out what stands between each and the student.

    What is returned last catches the student's maps; None: those that enter Detect are compared, which it tells itself.

    Args:
        student: left as it is.
        detectors: taken over by their teachers.
        settings: as in `SETTINGS`.
        imgsz: image side in pixels.
        square: whether all images have that side.

    Raises:
        SlimError: a teacher that does not fit the student or its images.
    """
    for detector, name in zip(detectors, settings["teachers"], strict=True):
        check_sees_the_same(student, detector, name, imgsz, square=square)
    kin = zip(detectors, settings["kin"], strict=True)
    found = [same_channels(student, detector, imgsz) if cut_from_it else None for detector, cut_from_it in kin]
    layers = settings["layers"]
    features, outputs = settings["features"], settings["outputs"]
    of_maps = [*features, *(name for name in outputs if all_say("maps_alone", [name]))]
    if not layers and of_maps and all_say("every_block", of_maps):
        layers = blocks_of(student, found)
    # What several teachers predict is joined for the losses of outputs, whatever those look at.
    predicts = not all_say("maps_alone", [*features, *outputs]) or (len(detectors) > 1 and bool(outputs))
    if predicts and any(bins_of(detector) is None for detector in (student, *detectors)):
        lost = [name for name in (*features, *outputs) if not all_say("maps_alone", [name])]
        raise SlimError(
            f"finetune.distill: {', '.join(lost or outputs)}: student or teacher has a head with anchors, of which "
            "predictions are not compared; expected one teacher and losses of maps alone: "
            f"{', '.join(name for name in LOSSES if all_say('maps_alone', [name]))}"
        )
    mine, theirs = (list(layers), list(layers.values())) if layers else (entering(student), None)
    taps, teachers, pairs = Taps(student, mine, "the student"), [], []
    for detector, name, who in zip(detectors, settings["teachers"], found, strict=True):
        same = None if who is None else channels_at(theirs or entering(detector), who)
        teachers.append(Teacher(detector, name, student.stride.tolist(), theirs, predicts=predicts))
        pairs.append(pair(student, taps, teachers[-1], same))
    return teachers, pairs, taps if layers else None


def all_say(what: str, names: Iterable[str]) -> bool:
    """Whether all of some losses say `maps_alone`, or `every_block`; see `yolo_slim.distill`."""
    return all(getattr(LOSSES[name], what, False) for name in names)


def losses_between(pairs: Sequence[Pair], settings: Mapping[str, Any]) -> Together:
    """The losses that `settings` names, as in `SETTINGS`."""
    chosen = (
        {name: (losses[name], options) for name, options in settings[kind].items()}
        for kind, losses in (("features", FEATURES), ("outputs", OUTPUTS))
    )
    return Together(pairs, *chosen)


class _WithTeachers:
    """Ultralytics' criterion plus what teachers say, scaled with the batch as Ultralytics scales its own."""

    def __init__(self, base: Callable, trainer: DistillTrainer) -> None:
        self.base, self.trainer = base, trainer

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        own = self.trainer.taught(preds, batch)
        loss, items = self.base(*labelled(preds, batch))
        if not any_labelled(batch):  # the graph stays, the gradient is 0
            loss, items = 0 * loss, {name: 0 * value for name, value in items.items()}
        total = loss.sum() + sum(own.values()) * len(batch["img"])
        return total, {**items, **{name: value.detach() for name, value in own.items()}}

    def __deepcopy__(self, memo: dict) -> Callable:  # a copy of the detector is one without a teacher
        return copy.deepcopy(self.base, memo)

    def __getattr__(self, name: str) -> Any:  # `update`, where Ultralytics' criterion has one
        return getattr(self.__dict__["base"], name)
