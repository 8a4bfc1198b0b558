"""Ultralytics' detector with the types of what it has, which its own source leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    class Layer(nn.Module):
        """Knows its number, and whose outputs it takes."""

        i: int
        f: int | list[int]

    class Head(Detect):
        """The last layer."""

        i: int
        f: list[int]
        format: str | None  # type: ignore[assignment]

    class Layers(nn.Sequential):
        """In their order, the head last, which alone is asked for by its place."""

        def __getitem__(self, i: int) -> Head: ...  # type: ignore[override]
        def __iter__(self) -> Iterator[Layer]: ...

    class Detector(DetectionModel):
        """What `checkpoint.load` gives."""

        model: Layers
        save: list[int]
        names: dict[int, str]
        yaml: dict[str, Any]
        stride: Tensor
        args: Any  # a dict; a namespace while Ultralytics trains it
        criterion: Any
        task: str
        pt_path: str
else:
    Layer, Head, Layers, Detector = nn.Module, Detect, nn.Sequential, DetectionModel
