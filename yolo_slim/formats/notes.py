"""Notes in a YAML that a detector has other layers than it says, so that no trainer rebuilds it unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import cuts_of, grown_of
from yolo_slim.formats.families import known_family

STOCK_TRAINER_STOP = "this detector is slim, and the stock trainer would rebuild it at full width: train it with {}"
"""With how that is done: it stands where a model YAML names its first layer; the stock trainer stops and says it."""
STOCK_TRAINER_STOP_GROWN = (
    "this detector has grown beyond its YAML, and the stock trainer would rebuild it at the widths of that: train it "
    "with {}"
)


def mark_slim(detector: Detector, kept: dict[str, list[int]]) -> None:
    """Note in the detector that its widths are not its YAML's, so that the stock trainer stops instead of regrowing it.

    `detector.yaml` keeps the full description under `slim`, with the cut: convolution -> outputs kept, of `full`;
    none are kept of the convolutions of a residual branch that was taken out.
    Cutting a second time keeps the indices of each cut in order.
    """
    _note(detector, STOCK_TRAINER_STOP, cuts=[*cuts_of(detector), kept])


def mark_grown(detector: Detector, outputs: Mapping[str, list[int]]) -> None:
    """Note in the detector that it has grown, so that the stock trainer stops instead of rebuilding it.

    Cuts made later are of the channels that there are now: those made so far move, with this growth, to
    `detector.yaml["slim"]["grown"]`.

    Args:
        detector: as it is now.
        outputs: convolution -> of each of its outputs, which of those before it is a copy of; those that grew alone.
    """
    step = {"cuts": cuts_of(detector), "outputs": dict(outputs)}
    _note(detector, STOCK_TRAINER_STOP_GROWN, cuts=[], grown=[*grown_of(detector), step])


def _note(detector: Detector, stop: str, **how: Any) -> None:
    """In its YAML: that its layers are others than those of the full description, which is kept, and `how`."""
    slim = detector.yaml.get("slim", {})
    full = slim.get("full") or {k: detector.yaml[k] for k in ("backbone", "head")}
    detector.yaml = {
        **detector.yaml,
        "backbone": [[-1, 1, stop.format(known_family(detector, "what is slim").trained), []]],
        "slim": {**slim, "full": full, **how},
    }


def is_slim(detector: nn.Module) -> bool:
    """Whether `mark_slim` or `mark_grown` was here: its layers are not its YAML's."""
    return "slim" in (getattr(detector, "yaml", None) or {})
