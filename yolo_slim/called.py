"""A package that is a function as well: `yolo_slim.report(...)` runs the stage whose pages `yolo_slim.report` makes."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import Any

HOMES = {"report": "yolo_slim.commands", "compress": "yolo_slim.compression"}
"""Name of a package and of its function -> where that is; imported when it is called."""


class Called(ModuleType):
    """A module that hands a call on to the function of its own name."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        """As the function."""
        return self._function(*given, **named)

    @property
    def __signature__(self) -> Signature:
        return signature(self._function)

    @property
    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(HOMES[name]), name)


def also_called(package: str) -> None:
    """Let a package be called, from its own `__init__`."""
    sys.modules[package].__class__ = Called
