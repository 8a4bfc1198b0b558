"""Ways to spoil a detector, past whatever `nn.Module` would say to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def value(place: str, what: Any) -> Callable[[nn.Module], None]:
    """Set a value of a module, past whatever `nn.Module` would say to it."""
    name, _, attribute = place.rpartition(".")

    def spoil(detector: nn.Module) -> None:
        vars(detector.get_submodule(name))[attribute] = what

    return spoil


def without(place: str) -> Callable[[nn.Module], None]:
    name, _, attribute = place.rpartition(".")

    def spoil(detector: nn.Module) -> None:
        module = detector.get_submodule(name)
        holder = next(h for h in (vars(module), module._parameters, module._buffers, module._modules) if attribute in h)
        del holder[attribute]

    return spoil


def tensors(place: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[nn.Module], None]:
    """Change a tensor of a module."""
    name, _, attribute = place.rpartition(".")

    def spoil(detector: nn.Module) -> None:
        module = detector.get_submodule(name)
        table = module._parameters if attribute in module._parameters else module._buffers
        table[attribute] = (
            nn.Parameter(change(table[attribute].data), requires_grad=False)
            if table is module._parameters
            else change(table[attribute])
        )

    return spoil


def layer(place: str, other: nn.Module) -> Callable[[nn.Module], None]:
    """Put another module in the place of one."""
    name, _, attribute = place.rpartition(".")
    return lambda detector: detector.get_submodule(name)._modules.__setitem__(attribute, other)


def circle(detector: nn.Module) -> None:
    detector.model[2]._modules["m"] = detector.model


def endless() -> list:
    """A list of two lists, each of two lists, and so on: nothing to store, and no end to it."""
    inner: list = []
    for _ in range(60):
        inner = [inner, inner]
    return inner


def deep() -> dict:
    inner: dict = {}
    for _ in range(200):
        inner = {"a": inner}
    return inner


def slim(**changes: Any) -> Callable[[nn.Module], None]:
    """The note of a cut, as another than cutting leaves it."""

    def spoil(detector: nn.Module) -> None:
        full = {key: detector.yaml[key] for key in ("backbone", "head")}
        detector.yaml = {**detector.yaml, "slim": {"full": full, "cuts": [{"model.1.conv": [0, 1]}], **changes}}

    return spoil


def repeated(times: int) -> Callable[[nn.Module], None]:
    def spoil(detector: nn.Module) -> None:
        full = copy.deepcopy({key: detector.yaml[key] for key in ("backbone", "head")})
        full["backbone"][2][1] = times
        slim(full=full)(detector)

    return spoil


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone().index_fill_(0, torch.tensor(0), float("nan"))


def infinite(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone().index_fill_(0, torch.tensor(0), float("inf"))
