"""A teacher: a detector that looks at the same images as the student, and what either says of a batch.

In eval mode, without gradients, once a batch however many losses look at what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.tal import make_anchors

from yolo_slim.channels.hooks import hooked
from yolo_slim.data.names import is_nameless, numbered
from yolo_slim.distill import Scene, View
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import bins_of, classes_of, entering, head_of, is_of_head, raw


def names_of(detector: Detector) -> tuple[str, ...]:
    """Of its classes; (): it has none but numbers, as Ultralytics gives where a data set or a YAML has no names."""
    names = numbered(detector.names)
    return () if is_nameless(names) or len(names) != classes_of(detector) else tuple(names.values())


class Taps:
    """Catches what leaves some modules, from `open` to `close`; `whose`: of which detector, for messages."""

    def __init__(self, detector: Detector, names: Sequence[str], whose: str) -> None:
        modules = dict(detector.named_modules())
        if missing := [n for n in names if n not in modules]:
            raise SlimError(
                f"finetune.distill.layers names {', '.join(missing)}, which {whose} does not have: expected names of "
                f"its modules, such as those that enter Detect, {', '.join(entering(detector))}"
            )
        self.whose = whose
        self.names, self.modules = list(names), [modules[n] for n in names]
        self.maps: list[Any] = []
        self.held = ExitStack()

    def open(self) -> None:
        """Begin to catch. A copy that is made of the detector meanwhile would catch as well."""
        self.close()
        self.maps = [None] * len(self.modules)
        catches = (lambda m, a, out, i=i: self.maps.__setitem__(i, out) for i in range(len(self.modules)))
        hooks = (module.register_forward_hook(c) for module, c in zip(self.modules, catches, strict=True))
        self.held.enter_context(hooked(hooks))

    def close(self) -> None:
        """End it, and forget what was caught."""
        self.held.close()
        self.maps = []

    def caught(self) -> list[Tensor]:
        """The maps of the last run.

        Raises:
            SlimError: a module that was not run, or gives something else than a map (B, C, H, W).
        """
        for name, found in zip(self.names, self.maps, strict=True):
            if not isinstance(found, Tensor) or found.dim() != 4:
                got = f"{tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise SlimError(
                    f"finetune.distill.layers: expected a map (B, C, H, W) from {name} of {self.whose}, got {got}"
                )
        return self.maps


class Silent(nn.Module):
    """Stands for Detect where nobody listens to it."""

    def __init__(self, f: Sequence[int], i: int) -> None:
        super().__init__()
        self.f, self.i = f, i

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
        """What entered."""
        return {"feats": maps}


class Teacher:
    """A detector that teaches a student with these strides.

    Args:
        detector: taken over: put into eval mode, frozen, its batch norms merged into its convolutions.
        name: for messages.
        strides: of the student's levels, in pixels.
        layers: modules to catch; None: what enters Detect at the student's strides.
        predicts: False: its head is not run, and what it says has no position: enough for losses of maps alone.

    Raises:
        SlimError: a stride of the student that the teacher does not have.
    """

    def __init__(
        self,
        detector: Detector,
        name: str,
        strides: Sequence[float],
        layers: Sequence[str] | None = None,
        *,
        predicts: bool = True,
    ) -> None:
        own = [float(s) for s in detector.stride]
        if missing := [s for s in strides if s not in own]:
            raise SlimError(
                f"the teacher {name} has other strides than the student: {own}, and none of "
                f"{', '.join(f'{s:g}' for s in missing)}; take a teacher with the student's {list(strides)}"
            )
        self.levels = [own.index(s) for s in strides]
        self.classes, self.bins = classes_of(detector), bins_of(detector)
        self.class_names = names_of(detector)
        self.names = list(layers) if layers is not None else [entering(detector)[i] for i in self.levels]
        self.detector, head = detector.eval().requires_grad_(False), head_of(detector)
        self.predicts = predicts or any(is_of_head(detector, name) for name in self.names)
        inner = any(name.count(".") > 1 for name in self.names)
        if not inner and not hasattr(head, "one2one_cv2"):
            # Merging drops batch norms, which may be named in `layers`, and the one-to-many half of a double head.
            self.detector.fuse(verbose=False)
        if not self.predicts:
            detector.model[-1] = Silent(head.f, head.i)
        self.detector.to(memory_format=torch.channels_last)  # in half precision on a CPU, half of the time
        self.taps = Taps(self.detector, self.names, f"the teacher {name}")
        self.taps.open()

    def to(self, device: torch.device) -> Teacher:
        """Move it."""
        self.detector.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> View:
        """What it says of images (B, C, H, W)."""
        self.detector.eval()
        head_of(self.detector).training = True  # the head says what it sees, and does not decode it
        with cheap(images.device):
            found = raw(self.detector(images.contiguous(memory_format=torch.channels_last)))
        if not self.predicts or self.bins is None:
            return _of_maps(self.taps.caught(), images)
        sizes = [m.shape[2] * m.shape[3] for m in found["feats"]]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        at = torch.cat([torch.arange(starts[i], starts[i] + sizes[i], device=images.device) for i in self.levels])
        return View(self.taps.caught(), found["boxes"][..., at], found["scores"][..., at])


def cheap(device: torch.device, *, learns: bool = False) -> AbstractContextManager:
    """Half precision where the device is made for it; what a teacher says needs no more.

    Args:
        device: that it runs on.
        learns: gradients pass: fp16, whose smallest ones are 0, will not do.
    """
    if device.type == "cuda" and (torch.cuda.is_bf16_supported() or not learns):
        return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def view_of(output: Any, maps: Sequence[Tensor] | None) -> View:
    """What a student says, from what it returned; `maps`: those that were caught, None: what entered Detect."""
    found = raw(output)
    maps = found["feats"] if maps is None else maps
    return View(maps, found["boxes"], found["scores"]) if "scores" in found else _of_maps(maps, found["feats"][0])


def _of_maps(maps: Sequence[Tensor], like: Tensor) -> View:
    """A view without predictions, on the device of a tensor (B, ...)."""
    nothing = like.new_zeros(len(like), 0, 0)
    return View(maps, nothing, nothing)


def scene_of(output: Any, batch: Mapping[str, Any], strides: Tensor) -> Scene:
    """Where a student's predictions stand, and the true boxes of an Ultralytics batch.

    Args:
        output: what the student returned.
        batch: img (B, C, H, W), bboxes (N, 4) xywh as shares of the image, cls (N, 1), batch_idx (N,).
        strides: of the student's levels, in pixels.
    """
    points, per_point = make_anchors(raw(output)["feats"], strides, 0.5)
    device = points.device
    height, width = batch["img"].shape[2:]
    boxes = batch["bboxes"].to(device) * torch.tensor([width, height, width, height], device=device)
    half = boxes[:, 2:] / 2
    return Scene(
        points * per_point,
        per_point[:, 0],
        torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1),
        batch["cls"].to(device).flatten(),
        batch["batch_idx"].to(device).long(),
        (height, width),
    )
