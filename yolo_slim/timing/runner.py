"""A runtime on this machine: makes detectors ready in it, and tells under which conditions they run."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_slim import checkpoint, deploy, measure
from yolo_slim.channels import image_channels
from yolo_slim.console import captured, quietly
from yolo_slim.timing.beside import Started

PROFILED = 8
"""Runs in which the layers of one detector are timed."""


@dataclass(frozen=True)
class Runner:
    """Runs detectors in a runtime on this machine: PyTorch on any device, the others on the CPU."""

    runtime: str
    threads: int
    imgsz: int
    batch: int = 1
    where: str = "cpu"

    @classmethod
    def of(cls, runtime: str, threads: int | None, imgsz: int, device: str, batch: int = 1) -> Runner:
        """On the device that is asked for if it is PyTorch; with as many threads as there are cores, if none."""
        where = str(measure.place(device)) if runtime == "torch" else "cpu"
        return cls(runtime, threads or os.cpu_count() or 1, imgsz, batch, where)

    @property
    def name(self) -> str:
        """Of the runtime, with its device where that is not the CPU."""
        return self.runtime if self.where == "cpu" else f"{self.runtime} on {self.where}"

    @property
    def sees_layers(self) -> bool:
        """Whether the runtime tells what its layers take."""
        return self.runtime == "torch" or deploy.RUNTIMES[self.runtime].layers is not None

    def start(self, detector: nn.Module, folder: Path) -> Started:
        """Make a detector ready: what runs it on an image, and where it sees layers, what tells their milliseconds."""
        image = torch.rand(self.batch, image_channels(detector, self.imgsz), self.imgsz, self.imgsz)
        if self.runtime == "torch":
            torch.set_num_threads(self.threads)
            ready = measure.runner(detector, image, self.where)
            return ready, lambda: measure.by_layer(detector, image, PROFILED, self.where)
        weights, runtime = checkpoint.save(detector, folder / "timed.pt"), deploy.RUNTIMES[self.runtime]
        arguments: dict[str, Any] = {"batch": self.batch} if "batch" in deploy.taken(runtime.format) else {}
        file = folder / f"timed{deploy.suffix(runtime.format)}"
        with quietly(), captured():
            deploy.export_file(weights, file, self.imgsz, runtime.format, **arguments)
        run, array = deploy.opened(file, self.runtime, self.threads), image.numpy()
        names = [name for name, m in detector.named_modules() if isinstance(m, nn.Conv2d)]

        def layers() -> dict[str, float]:
            assert runtime.layers is not None, "asked of runners that see layers alone"
            return deploy.by_layer(runtime.layers(file, self.threads, array, PROFILED), names)

        return lambda: run(array), layers

    @property
    def version(self) -> str:
        """Of the runtime."""
        return torch.__version__ if self.runtime == "torch" else deploy.version_of(self.runtime)

    @property
    def conditions(self) -> dict[str, Any]:
        """All besides the detector that decides how long it takes."""
        return {**asdict(self), "version": self.version, "device": measure.chip(self.where)}
