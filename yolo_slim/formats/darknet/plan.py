"""What a cfg describes, once it has been read: layers with their sources and the shapes that leave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_slim.formats.darknet.cfg import Section

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class Layer:
    """A section that is computed: Darknet's layer number `index`."""

    index: int
    section: Section
    sources: tuple[int, ...]  # numbers of layers, -1 the image
    shape: Shape  # of what leaves it, for an image of the cfg's size
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.kind

    @property
    def place(self) -> str:
        """How messages call it."""
        return f"layer {self.index} (line {self.section.line}, [{self.kind}])"


@dataclass(frozen=True)
class Net:
    """All of a cfg that is computed."""

    image: Shape
    layers: tuple[Layer, ...]
    section: Section  # [net]

    @property
    def yolos(self) -> tuple[Layer, ...]:
        """Its `[yolo]` layers."""
        return tuple(layer for layer in self.layers if layer.kind == "yolo")

    @property
    def classes(self) -> int:
        """How many each `[yolo]` tells apart."""
        return self.yolos[0].values["classes"]

    @property
    def convs(self) -> tuple[Layer, ...]:
        """Its convolutions."""
        return tuple(layer for layer in self.layers if layer.kind == "convolutional")

    def channels_into(self, layer: Layer) -> int:
        """Channels that a layer with one source reads."""
        return self.shape_of(layer.sources[0])[0]

    def shape_of(self, index: int) -> Shape:
        """What leaves a layer; -1: the image."""
        return self.image if index < 0 else self.layers[index].shape
