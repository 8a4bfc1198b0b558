"""What Ultralytics is asked: arguments of its trainer, formats of its exporter, checked before anything runs."""

from __future__ import annotations

import importlib.util
from difflib import get_close_matches
from typing import Any

OURS = {
    "model",
    "data",
    "imgsz",
    "device",
    "epochs",
    "seed",
    "project",
    "name",
    "save_dir",
    "resume",
    "task",
    "mode",
    "exist_ok",
}
"""Ultralytics arguments that have a setting of their own here."""


def check_train_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what Ultralytics would not take, before anything runs.

    Raises:
        ValueError: with every unknown, mistyped or doubly set argument.
    """
    from ultralytics.cfg import check_cfg  # imported late: it takes seconds, and --help does not need it
    from ultralytics.utils import DEFAULT_CFG_DICT

    wrong = []
    for key, value in arguments.items():
        if key in OURS:
            wrong.append(f"{key} is set by yolo-slim: use its own setting")
        elif key not in DEFAULT_CFG_DICT:
            near = get_close_matches(key, sorted(DEFAULT_CFG_DICT.keys() - OURS), n=1, cutoff=0.5)
            wrong.append(f"{key}: Ultralytics has no such argument" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            try:
                check_cfg({key: value})
            except (TypeError, ValueError) as e:
                wrong.append(f"{key}: {e}")
    # Ultralytics would install it by itself.
    if str(arguments.get("quantize")) in ("8", "int8", "w8a8") and importlib.util.find_spec("modelopt") is None:
        wrong.append("quantize=8, training for INT8, needs nvidia-modelopt: pip install yolo-slim[qat]")
    if wrong:
        raise ValueError("; ".join(wrong))


def check_formats(formats: list[str]) -> None:
    """Refuse what Ultralytics cannot export to, and what cannot be had without installing on the way.

    Raises:
        ValueError: with every unknown format, and those there are.
    """
    if "mnn" in formats:  # MNN/tools/utils/log.py: os.system("pip install ...")
        raise ValueError("mnn: its package runs pip when it is imported, which may break others: `yolo export` has it")
    from ultralytics.engine.exporter import export_formats  # imported late, as above

    known = export_formats()["Argument"][1:]  # the first is PyTorch
    if unknown := [name for name in formats if name not in known]:
        raise ValueError(f"Ultralytics has no format {', '.join(unknown)}; expected some of {', '.join(known)}")
