"""How long one image takes: all detectors in turn, so that whatever else the machine does hits them alike."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Mapping

import numpy as np
import torch
from rich.progress import track
from torch import nn

THREADS = torch.get_num_threads()
"""torch's own choice, which Ultralytics lowers when it trains or validates on a CPU."""


@torch.inference_mode()
def latency(
    detectors: Mapping[str, nn.Module], imgsz: int, device: str = "cpu", runs: int = 50, warmup: int = 10
) -> tuple[dict[str, dict[str, float]], dict[str, object]]:
    """Time fused detectors at batch 1, fp32, interleaved: one image through each, `runs` times.

    Returns:
        name -> median, p10 and p90 in ms; and what it was measured on.
    """
    where = torch.device(f"cuda:{device}" if device.isdigit() else device)
    ready = {n: copy.deepcopy(d).float().fuse(verbose=False).eval().to(where) for n, d in detectors.items()}
    image = torch.rand(1, 3, imgsz, imgsz, device=where)
    torch.set_num_threads(THREADS)
    times: dict[str, list[float]] = {n: [] for n in ready}
    for i in track(range(warmup + runs), description="latency", transient=True):
        for name, detector in ready.items():
            _wait(where)
            start = time.perf_counter()
            detector(image)
            _wait(where)
            if i >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    result = {
        n: dict(zip(("p10", "median", "p90"), map(float, np.percentile(t, (10, 50, 90))), strict=True))
        for n, t in times.items()
    }
    chip = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor() or platform.machine()
    return result, {
        "runtime": f"PyTorch {torch.__version__}, fused",
        "device": f"{where} ({chip})",
        "threads": torch.get_num_threads(),
        "batch": 1,
        "dtype": "float32",
        "imgsz": imgsz,
        "runs": runs,
    }


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)
