"""Files that this machine can make and cannot run: for which chip each is, and why it stays unproven here."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
from collections.abc import Callable

from ultralytics.utils.checks import is_rockchip

ELSEWHERE: dict[str, tuple[Callable[[], bool], str]] = {
    "coreml": (lambda: sys.platform == "darwin", "Core ML predicts on macOS alone"),
    "rknn": (is_rockchip, "an .rknn file runs on Rockchip's chips alone (docs/devices/rknn.md has their simulator)"),
    "hailo": (lambda: importlib.util.find_spec("hailo_platform") is not None, "an .hef file runs where HailoRT is"),
    "edgetpu": (
        lambda: ctypes.util.find_library("edgetpu") is not None,
        "a file compiled for the Edge TPU runs where its runtime is (libedgetpu)",
    ),
}
"""Format -> whether its files can be run here, and why not."""


def elsewhere(format: str) -> str | None:
    """Why files of a format cannot be run on this machine; None: they can, as far as is known."""
    can, why = ELSEWHERE.get(format, (lambda: True, ""))
    return None if can() else why
